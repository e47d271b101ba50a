"""What is tried for a fast placement that misses the error limit, with a lookup played back."""

from medfm_compress.compress.quantization.methods import DoesNotApply, Lookup, Method, Standing
from medfm_compress.compress.quantization.missed_candidates import missed_candidates

FAST = Method(placement="byte-sums")


def walk(missed, **applies):
    tried = [FAST, applies.get("before")]  # what misses was tried
    lookup = Lookup(
        standing=lambda: Standing(best=None, within_limits=False),
        most_harmful=lambda method: (),
        smooths=lambda: applies.get("smooths", True),
        divides=lambda: applies.get("divides", False),
        missed=missed,
        tried=lambda method: method in tried,
    )
    for item in missed_candidates(lookup):
        tried.append(item)
    return [item.candidate if isinstance(item, DoesNotApply) else str(item) for item in tried[2:]]


def test_each_change_comes_on_top_of_the_best_that_misses():
    assert walk(lambda: FAST, divides=True) == [
        "int8-byte-sums+mse+smoothquant",
        "int8-byte-sums+minmax+bias-correction",
        "int8-byte-sums+minmax+explicit-smoothquant-0.7",
        "int8-byte-sums+minmax+explicit-smoothquant-0.85",
    ]


def test_what_did_without_zero_points_gets_them_last():
    for symmetric in ("balanced", "all"):
        missed = Method(placement="byte-sums", symmetric=symmetric, estimator="mse")
        assert walk(lambda missed=missed: missed)[-1] == "int8-byte-sums+mse"


def test_it_ends_where_nothing_is_missed_any_more():
    answers = iter([FAST, FAST, None])
    assert walk(lambda: next(answers)) == ["int8-byte-sums+mse+smoothquant"]
    assert walk(lambda: None) == ["int8-for-a-faster-placement"]


def test_what_was_tried_is_not_tried_again():
    best = Method(placement="byte-sums", estimator="mse", smoothquant=True, bias_correction=True)
    assert walk(lambda: best, before=best) == []
    assert walk(lambda: best, divides=True, before=best) == [
        "int8-byte-sums+mse+smoothquant+explicit-smoothquant-0.7+bias-correction",
        "int8-byte-sums+mse+smoothquant+explicit-smoothquant-0.85+bias-correction",
    ]
