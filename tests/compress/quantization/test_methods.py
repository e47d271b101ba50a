"""The candidates and their order, with standings played back."""

import msgspec
import pytest

from medfm_compress.compress.quantization.methods import EXCLUSIONS, DoesNotApply, Lookup, Method, Standing, candidates
from medfm_compress.compress.quantization.nncf_candidates import first_settings, nncf_candidates
from medfm_compress.compress.quantization.nncf_settings import NncfSettings


def search_candidates(
    placements,
    better=lambda method: False,
    *,
    rests=("fp32",),
    limits=True,
    ranked=(),
    smooths=True,
    divides=False,
    symmetric="none",
):
    """Walk the candidates; one that is ``better`` becomes the best one."""
    state, walked = {"best": None}, []
    lookup = Lookup(
        standing=lambda: Standing(best=state["best"], within_limits=limits),
        most_harmful=lambda method: ranked,
        smooths=lambda: smooths,
        divides=lambda: divides,
        tried=lambda method: method in walked,
    )
    starts = tuple(Method(placement=name, rest=rest, symmetric=symmetric) for name in placements for rest in rests)
    for candidate in candidates(starts, lookup):
        walked.append(candidate)
        if isinstance(candidate, Method) and (state["best"] is None or better(candidate)):
            state["best"] = candidate
    return walked


def names(walked):
    return [str(candidate) if isinstance(candidate, Method) else f"({candidate.candidate})" for candidate in walked]


def test_every_technique_has_its_rung_and_the_cheapest_comes_first():
    walked = search_candidates(("default", "attention"))
    assert names(walked) == [
        "int8-minmax",
        "int8-mse",
        "int8-minmax+smoothquant",
        "int8-mse+smoothquant",
        "int8-attention+minmax",
        "int8-percentile",
        "int8-mean-minmax",
        "int8-minmax+bias-correction",
        "(int8-for-a-faster-placement)",
        "(int8-without-layers)",
        "(int8-quantization-aware-training)",
    ]


def test_later_rungs_build_on_the_best_so_far():
    walked = search_candidates(("default",), better=lambda method: method.estimator == "mse")
    assert names(walked)[2] == "int8-mse+smoothquant" and names(walked)[-4] == "int8-mse+smoothquant+bias-correction"


def test_other_placements_take_the_best_estimator():
    walked = search_candidates(("default", "attention"), better=lambda method: method.estimator == "mse")
    assert "int8-attention+mse+smoothquant" in names(walked)


def test_the_float_part_may_have_another_precision():
    walked = search_candidates(("default", "attention"), rests=("fp32", "bf16"))
    assert names(walked)[:3] == ["int8-minmax", "int8-bf16-minmax", "int8-mse"]
    assert names(walked)[5:8] == ["int8-attention+minmax", "int8-bf16-attention+minmax", "int8-percentile"]


def test_what_follows_builds_on_the_better_precision_of_the_float_part():
    bf16 = search_candidates(("default", "attention"), lambda method: method.rest == "bf16", rests=("fp32", "bf16"))
    assert names(bf16)[2:4] == ["int8-bf16-mse", "int8-bf16-mse+smoothquant"]


def test_where_zero_points_cost_time_candidates_have_few_and_then_none():
    first = ["int8-balanced-symmetric+minmax", "int8-bf16-balanced-symmetric+minmax"]
    walked = search_candidates(("default", "attention"), rests=("fp32", "bf16"), symmetric="balanced")
    assert names(walked)[:4] == [*first, "int8-symmetric+minmax", "int8-balanced-symmetric+mse"]
    assert "int8-attention+balanced-symmetric+minmax" in names(walked)
    better = search_candidates(
        ("default", "attention"), lambda method: method.symmetric == "all", rests=("fp32", "bf16"), symmetric="balanced"
    )
    assert names(better)[2:5] == ["int8-symmetric+minmax", "int8-symmetric+mse", "int8-symmetric+mse+smoothquant"]
    assert any(name.startswith("int8-attention+symmetric+") for name in names(better))


def test_dynamic_ranges_have_no_estimator():
    walked = search_candidates(("default", "dynamic"), better=lambda method: method.placement == "dynamic")
    assert names(walked)[4:6] == ["int8-dynamic", "int8-dynamic+bias-correction"]


def test_layers_are_left_out_in_growing_numbers_only_while_the_limits_are_missed():
    ranked = tuple(f"layer{number}" for number in range(6))
    walked = search_candidates(("default",), limits=False, ranked=ranked)
    left_out = [candidate.excluded for candidate in walked if isinstance(candidate, Method) and candidate.excluded]
    assert left_out == [ranked[:count] for count in EXCLUSIONS if count < 6]


def test_outliers_that_nothing_takes_up_are_divided_before_other_placements_are_tried():
    walked = search_candidates(
        ("default", "attention"), better=lambda method: method.divided > 0.7, limits=False, smooths=False, divides=True
    )
    divided = names(walked).index("int8-minmax+explicit-smoothquant-0.85")
    assert names(walked).index("int8-attention+minmax+explicit-smoothquant-0.85") == divided + 1
    within = search_candidates(("default",), smooths=False, divides=True)
    assert not any("explicit" in name for name in names(within))  # not needed: it costs time on the device


@pytest.mark.parametrize(("arguments", "reason"), [({"smooths": False}, "takes up"), ({"limits": False}, "measured")])
def test_what_does_not_apply_says_why(arguments, reason):
    walked = search_candidates(("default",), **arguments)
    assert any(reason in candidate.reason for candidate in walked if isinstance(candidate, DoesNotApply))


def test_a_reduced_range_is_named():
    assert str(msgspec.structs.replace(Method(), reduced=True)) == "int8-minmax+7-bit-weights"


def test_nncf_settings_are_named():
    settings = NncfSettings(estimator="histogram", smoothquant=0.5, transformer=True, preset="mixed")
    method = Method(nncf=settings, rest="bf16", excluded=("a",), reduced=True)
    assert str(method) == "int8-bf16-nncf+histogram+mixed+transformer+smoothquant-0.5+without-1-layers+7-bit-weights"
    assert str(Method(nncf=NncfSettings(rounding="gptq"), weight_bits=4)) == "int4-weights-nncf+gptq"
    assert str(Method(nncf=NncfSettings(), weight_bits=8)) == "int8-weights-nncf"


@pytest.mark.parametrize(("rests", "precisions"), [(("fp32",), ["int8"]), (("fp32", "bf16"), ["int8", "int8-bf16"])])
def test_nncf_changes_one_thing_of_its_own_best(rests, precisions):
    state = {"best": None}
    lookup = Lookup(
        standing=lambda: Standing(best=Method(), within_limits=True),
        most_harmful=lambda method: (),
        smooths=lambda: False,
        nncf=lambda: first_settings("openvino", attention=True),
        nncf_standing=lambda: Standing(best=state["best"], within_limits=True),
    )
    walked = []
    for candidate in nncf_candidates(lookup, rests):
        walked.append(str(candidate))
        if state["best"] is None or candidate.nncf.estimator == "minmax":
            state["best"] = candidate
    count = len(precisions)
    assert walked[:count] == [f"{precision}-nncf+histogram+mixed+transformer" for precision in precisions]
    assert walked[count:] == [
        "int8-nncf+histogram+mixed",
        "int8-nncf+histogram+mixed+transformer+smoothquant-0.5",
        "int8-nncf+histogram+mixed+transformer+smoothquant-0.95",
        "int8-nncf+histogram+mixed+transformer+accurate-bias-correction",
        "int8-nncf+histogram+mixed+transformer+fast-bias-correction",
        "int8-nncf+minmax+mixed+transformer",
        "int8-nncf+mean-no-outliers+mixed+transformer",
    ]


def test_a_graph_without_attention_is_not_smoothed_and_tries_zero_points():
    assert first_settings("openvino", attention=False).preset == "performance"
    assert first_settings("onnxruntime", attention=False).preset == "mixed"
