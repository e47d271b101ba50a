import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tiny_study
from played_clocks import FEW, play_clocks

from medfm_compress.bench.evaluate.evaluate import evaluate
from medfm_compress.bench.types.interval import Interval
from medfm_compress.compress.quantization import build_candidate, candidate_search
from medfm_compress.compress.quantization import companion_variants as companion
from medfm_compress.compress.quantization import quantize_bundle as module_under_test
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.compress.quantization.nncf_candidates import nncf_candidates
from medfm_compress.compress.quantization.nncf_settings import NncfSettings
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
from medfm_compress.compress.quantization.stored_weights import largest_weight
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.export.cases import network_inputs
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.golden_cases import replay_goldens
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.sessions.table import open_variant


@pytest.fixture(autouse=True)
def played_clocks(monkeypatch):
    """INT8 is twice as fast wherever a test does not say otherwise; one test starts the real processes."""
    play_clocks(monkeypatch, 2.0, 1.0)
    monkeypatch.setattr(companion, "speedup_on", lambda isa, models, *_: Interval(estimate=2.0, low=1.9, high=2.1))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "fp32.medfm"
    draft = BundleDraft(
        name="tiny",
        spec=tiny_study.SPEC,
        task=tiny_study.TASK,
        provenance=Provenance(steps=("finetune: 1 epoch",)),
        intended_use="testing",
    )
    build_bundle(tiny_study.make_module(48), draft, path, study=tiny_study.make_study())
    return path


def test_int8_replaces_fp32_where_it_is_faithful_and_faster(source, tmp_path, monkeypatch):
    play_clocks(monkeypatch, 2.0, 1.0)
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", FEW)
    bundle = Bundle.open(tmp_path / "q.medfm")
    assert quantized.applied
    names = [variant.name for variant in bundle.manifest.variants]
    assert set(names[:2]) == {"onnxruntime-cpu-int8", "openvino-cpu-int8"}
    assert set(names[2:]) == {"onnxruntime-cpu-int8-reduced", "openvino-cpu-int8-reduced"}
    for variant in bundle.manifest.variants:
        assert any("vnni" in need for need in variant.instruction_set) != ("reduced" in variant.name)
        assert replay_goldens(bundle, variant, open_variant(bundle, variant, 1)) < 1e-3
    assert {c.method for c in quantized.candidates if c.kept} < {c.method for c in quantized.candidates}
    assert any(candidate.pareto for candidate in quantized.candidates if candidate.kept)
    assert bundle.manifest.provenance.steps[0] == "finetune: 1 epoch"
    assert any("calibrated on 16 training cases" in step for step in bundle.manifest.provenance.steps)
    assert bundle.manifest.task == Bundle.open(source).manifest.task


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A bundle whose thresholds rest on 160 validation cases."""
    path = tmp_path_factory.mktemp("many") / "fp32.medfm"
    draft = BundleDraft(
        name="tiny", spec=tiny_study.SPEC, task=tiny_study.TASK, provenance=Provenance(), intended_use="testing"
    )
    build_bundle(tiny_study.make_module(48), draft, path, study=tiny_study.make_study(val=160))
    return path


def test_a_kept_variant_gets_its_own_threshold_from_all_validation_cases(many, tmp_path, monkeypatch):
    play_clocks(monkeypatch, 2.0, 1.0)
    study = tiny_study.make_study(val=160)
    options = msgspec.structs.replace(FEW, validation_samples=30, targets=("onnxruntime:cpu",), keep_fp32=True)
    quantized = quantize_bundle(many, study, tmp_path / "q.medfm", options)
    bundle = Bundle.open(tmp_path / "q.medfm")
    int8, fp32 = bundle.variant("onnxruntime-cpu-int8"), bundle.variant("onnxruntime-cpu-fp32")
    assert bundle.manifest.task == Bundle.open(many).manifest.task == bundle.manifest.task_of(fp32)
    task = bundle.manifest.task_of(int8)
    own, whole = (
        evaluate(open_variant(bundle, variant, 1), study, study.split("val"), tiny_study.SPEC, of, name=variant.name)
        for variant, of in ((int8, task), (fp32, bundle.manifest.task))
    )
    (point,) = task.operating_points
    assert (point.positives, point.negatives) == (80, 80)
    assert point.sensitivity == own.decisions[own.truth == 1].mean()
    assert own.decisions.sum() == whole.decisions.sum()
    assert not any(each.variant == fp32.name for each in quantized.thresholds)
    assert not any(f"{fp32.name}: threshold" in step for step in bundle.manifest.provenance.steps)
    of_int8 = next(each for each in quantized.thresholds if each.variant == int8.name)
    assert (of_int8.threshold, of_int8.cases) == (point.threshold, 160)
    assert of_int8.changed == (own.decisions != whole.decisions).sum()
    assert not any(name.startswith("test") for name in study.source.read_images)
    steps = [step for step in bundle.manifest.provenance.steps if "onnxruntime-cpu-int8: " in step]
    assert any("threshold of spot" in step for step in steps) and any("temperature" in step for step in steps)


def test_thresholds_are_left_where_asked_and_where_cases_are_too_few(many, source, tmp_path, monkeypatch):
    play_clocks(monkeypatch, 2.0, 1.0)
    options = msgspec.structs.replace(FEW, targets=("onnxruntime:cpu",))
    left = msgspec.structs.replace(options, rechoose=False)
    manifest = quantize_bundle(many, tiny_study.make_study(val=160), tmp_path / "left.medfm", left).manifest
    assert not any(variant.decides_itself for variant in manifest.variants) and manifest.schema_version == 1
    manifest = quantize_bundle(source, tiny_study.make_study(), tmp_path / "few.medfm", options).manifest
    assert not any(variant.decides_itself for variant in manifest.variants)
    assert any(
        "threshold of spot stays" in step and "8 with it and 8 without" in step for step in manifest.provenance.steps
    )


def test_int8_that_is_slower_is_refused_with_a_reason(source, tmp_path, monkeypatch):
    play_clocks(monkeypatch, 1.0, 1.2)
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", FEW)
    assert not quantized.applied
    tried = [candidate for candidate in quantized.candidates if candidate.p50_ms and candidate.method != "fp32"]
    assert tried and all("not faster than FP32" in candidate.reason for candidate in tried)
    bundle = Bundle.open(tmp_path / "q.medfm")
    assert bundle.manifest.model_digest == Bundle.open(source).manifest.model_digest
    assert any("not faster than FP32" in step for step in bundle.manifest.provenance.steps)


def test_int8_that_is_unfaithful_is_refused_with_a_reason(source, tmp_path, monkeypatch):
    play_clocks(monkeypatch, 2.0, 1.0)
    strict = msgspec.structs.replace(FEW, error_limit=1e-9)
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", strict)
    assert not quantized.applied
    assert all("above the limit" in c.reason for c in quantized.candidates if c.method.startswith("int8-minmax"))


def test_int8_that_wins_here_and_loses_in_fresh_processes_is_not_shipped(source, tmp_path, monkeypatch):
    play_clocks(monkeypatch, 2.0, 1.0, fresh_ms=lambda trial: 1.0 if trial.name == "fp32" else 1.1)
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", FEW)
    assert not quantized.applied
    assert quantized.manifest.model_digest == Bundle.open(source).manifest.model_digest
    lost = [candidate for candidate in quantized.candidates if candidate.method == "int8-minmax"]
    assert {candidate.reason for candidate in lost} == {"not faster than FP32 on the measuring machine"}
    assert all(candidate.speedup == pytest.approx(1 / 1.1) for candidate in lost)
    assert all(candidate.speedup_interval.high < 1 for candidate in lost)


def test_variants_of_all_engines_stand_in_the_order_of_one_run(source, tmp_path, monkeypatch):
    latencies = {
        "openvino-cpu-fp32": 9.0,
        "onnxruntime-cpu-fp32": 8.0,
        "openvino-cpu-int8": 4.0,
        "onnxruntime-cpu-int8": 3.0,
        "openvino-cpu-int8-reduced": 5.0,
        "onnxruntime-cpu-int8-reduced": 6.0,
    }
    rounds = []

    def fresh_ms(trial):
        rounds.append(trial.variant.name)
        return latencies.get(trial.variant.name, 7.0)

    play_clocks(monkeypatch, 2.0, 1.0, fresh_ms=fresh_ms)
    options = msgspec.structs.replace(FEW, keep_fp32=True)
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", options)
    assert [variant.name for variant in quantized.manifest.variants] == [
        "onnxruntime-cpu-int8",
        "openvino-cpu-int8",
        "openvino-cpu-int8-reduced",
        "onnxruntime-cpu-int8-reduced",
        "onnxruntime-cpu-fp32",
        "openvino-cpu-fp32",
    ]
    assert latencies.keys() <= set(rounds)
    kept = {candidate.variant: candidate for candidate in quantized.candidates if candidate.kept}
    assert {name: candidate.p50_ms for name, candidate in kept.items()} == pytest.approx(latencies)
    assert kept["openvino-cpu-int8"].speedup_interval.estimate == pytest.approx(9 / 4)
    assert kept["openvino-cpu-fp32"].speedup_interval is None


def test_fp32_is_kept_only_when_asked_for(source, tmp_path, monkeypatch):
    play_clocks(monkeypatch, 2.0, 1.0)
    keep = msgspec.structs.replace(FEW, keep_fp32=True, targets=("onnxruntime:cpu",))
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", keep)
    names = [v.name for v in quantized.manifest.variants]
    assert names[:3] == ["onnxruntime-cpu-int8", "onnxruntime-cpu-int8-reduced", "onnxruntime-cpu-fp32"]
    assert "openvino-cpu-fp32" in names  # not a target: left alone


def test_calibration_sees_training_cases_only_and_test_cases_are_never_read(source, tmp_path, monkeypatch):
    seen = []
    original = module_under_test.calibrate

    def spy(onnx, inputs, **options):
        return original(onnx, (seen.append(batch) or batch for batch in inputs), **options)

    monkeypatch.setattr(module_under_test, "calibrate", spy)
    study = tiny_study.make_study()
    quantized = quantize_bundle(source, study, tmp_path / "q.medfm", FEW)
    train = {case.image: case for case in study.split("train")}
    assert len(quantized.calibration_images) == 16 and set(quantized.calibration_images) <= train.keys()
    expected = network_inputs(study, [train[name] for name in quantized.calibration_images], tiny_study.SPEC)
    assert np.array_equal(np.concatenate(seen), expected)
    assert not any(name.startswith("test") for name in study.source.read_images)


def test_the_seed_decides_which_cases(source, tmp_path):
    options = msgspec.structs.replace(FEW, targets=("onnxruntime:cpu",))
    study = tiny_study.make_study()
    images = [
        quantize_bundle(source, study, tmp_path / "q", msgspec.structs.replace(options, seed=seed)).calibration_images
        for seed in (0, 0, 1)
    ]
    assert images[0] == images[1] != images[2]


@pytest.mark.parametrize(
    ("sizes", "split"), [({"train": 0}, "train"), ({"val": 0}, "val"), ({"train": 4}, "at least 8")]
)
def test_too_few_cases_are_refused(source, tmp_path, sizes, split):
    with pytest.raises(StudyError, match=split):
        quantize_bundle(source, tiny_study.make_study(**sizes), tmp_path / "q.medfm", FEW)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_without_its_fp32_graph_is_refused(source, tmp_path, monkeypatch):
    play_clocks(monkeypatch, 2.0, 1.0)
    quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", FEW)
    with pytest.raises(InputError, match="no FP32 ONNX variant"):
        quantize_bundle(tmp_path / "q.medfm", tiny_study.make_study(), tmp_path / "r.medfm", FEW)
    with pytest.raises(InputError, match="samples is 1"):
        QuantizeOptions(samples=1)


@pytest.mark.parametrize("target", ["tensorrt:cuda:int4-weights", "onnxruntime:cuda", "openvino:cpu:int8", "coreml"])
def test_an_unknown_target_is_refused_and_the_known_ones_are_named(source, tmp_path, target):
    with pytest.raises(InputError, match="target"):
        quantize_bundle(
            source, tiny_study.make_study(), tmp_path / "q.medfm", msgspec.structs.replace(FEW, targets=(target,))
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_weights_alone_are_compressed_for_size_whatever_the_clock_says(source, tmp_path, monkeypatch, bits):
    play_clocks(monkeypatch, 1.0, 1.2)
    options = msgspec.structs.replace(FEW, weights_only=bits)
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", options)
    bundle = Bundle.open(tmp_path / "q.medfm")
    assert {v.name for v in bundle.manifest.variants} == {
        f"{b}-cpu-{bits}-weights" for b in ("openvino", "onnxruntime")
    }
    assert all(not v.instruction_set for v in bundle.manifest.variants) and bundle.manifest.schema_version == 3
    for variant in bundle.manifest.variants:
        assert replay_goldens(bundle, variant, open_variant(bundle, variant, 1)) < 1e-3
    errors = [c.relative_logit_error for c in quantized.candidates if c.kept]
    assert all(0 < error < {"int8": 0.2, "int4": 0.5}[bits] for error in errors), errors


def test_a_variant_for_lesser_cpus_asks_for_what_it_pays_on(source, tmp_path, monkeypatch):
    play_clocks(monkeypatch, 2.0, 1.0)
    options = msgspec.structs.replace(FEW, targets=("openvino:cpu",))
    level = Interval(estimate=1.02, low=0.98, high=1.06)
    timed = {"AVX2": level, "AVX512_CORE": Interval(estimate=1.25, low=1.2, high=1.3)}
    monkeypatch.setattr(companion, "speedup_on", lambda isa, *_: timed[isa])
    manifest = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", options).manifest
    reduced = next(v for v in manifest.variants if v.name.endswith("reduced"))
    assert reduced.instruction_set == ("avx512bw",)
    timed["AVX512_CORE"] = level
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", options)
    assert not any(v.name.endswith("reduced") for v in quantized.manifest.variants)
    assert any(c.reason == "not faster than FP32 without VNNI" for c in quantized.candidates)


def test_constant_images_calibrate(source, tmp_path):
    """All activations are constant then: ranges of width 0 must give neither NaN nor a crash."""
    study = tiny_study.make_study()
    black = Pixels.from_integers(np.zeros((tiny_study.SIDE, tiny_study.SIDE), np.uint8))
    study.source.read = lambda image: black
    quantized = quantize_bundle(source, study, tmp_path / "q.medfm", FEW)
    judged = [candidate for candidate in quantized.candidates if candidate.is_judged]
    assert judged and all(np.isfinite(candidate.relative_logit_error) for candidate in judged)


def test_activations_that_are_not_finite_are_named(tmp_path):
    """A network whose weights overflow on real images is no input for calibration."""
    import torch

    module = tiny_study.make_module()
    with torch.no_grad():
        module[3].weight.mul_(1e38)
        module[7].weight.mul_(1e38)
    draft = BundleDraft(
        name="tiny", spec=tiny_study.SPEC, task=tiny_study.TASK, provenance=Provenance(), intended_use="testing"
    )
    with pytest.raises(InputError, match=r"finite|parity|compute"):
        build_bundle(module, draft, tmp_path / "fp32.medfm")
        quantize_bundle(tmp_path / "fp32.medfm", tiny_study.make_study(), tmp_path / "q.medfm", FEW)
    assert not (tmp_path / "q.medfm").exists()


def test_files_shrink_about_fourfold_and_bytes_repeat(tmp_path, monkeypatch):
    import torch
    from torch import nn

    play_clocks(monkeypatch, 2.0, 1.0)
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 256, 4, 4), nn.ReLU(), nn.Conv2d(256, 512, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(512, 2),
    )  # fmt: skip
    draft = BundleDraft(
        name="wide", spec=tiny_study.SPEC, task=tiny_study.TASK, provenance=Provenance(), intended_use="testing"
    )
    build_bundle(module, draft, tmp_path / "fp32.medfm")
    digests = []
    for name in ("a", "b"):
        quantized = quantize_bundle(tmp_path / "fp32.medfm", tiny_study.make_study(), tmp_path / name, FEW)
        sizes = {candidate.variant: candidate.size_bytes for candidate in quantized.candidates}
        for backend in ("openvino", "onnxruntime"):
            assert sizes[f"{backend}-cpu-int8"] < sizes[f"{backend}-cpu-fp32"] / 3.5
        digests.append(quantized.manifest.model_digest)
    assert digests[0] == digests[1]


QUIET = """
import socket, sys
def refuse(*_):
    raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = refuse
import importlib.util
spec = importlib.util.spec_from_file_location("tiny_study", sys.argv[1])
tiny = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny)
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
quantize_bundle(sys.argv[2], tiny.make_study(), sys.argv[3], QuantizeOptions(samples=16, rounds=5, time_budget_s=0))
assert not {"torch", "nncf"} & (set(sys.modules) - before), "calibrating needs neither"
"""


def test_quantizing_prints_nothing_calls_nobody_and_leaves_no_file_at_home(source, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "ORT_DISABLE_TELEMETRY": "1"}
    path = Path(tiny_study.__file__)
    script = QUIET.replace("from medfm_compress", "before = set(sys.modules)\nfrom medfm_compress", 1)
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), str(source), str(tmp_path / "q.medfm")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [file for file in home.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_what_nncf_makes_ships_like_any_other_candidate(source, tmp_path, monkeypatch, backend):
    pytest.importorskip("nncf")
    monkeypatch.setattr(candidate_search, "candidates", lambda starts, lookup: iter([Method(nncf=NncfSettings())]))
    options = msgspec.structs.replace(FEW, targets=(f"{backend}:cpu",), time_budget_s=600.0)
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", options)
    assert [c.method for c in quantized.candidates if c.kept] == [
        "int8-nncf+histogram",
        "int8-nncf+histogram+7-bit-weights",
    ]
    bundle = Bundle.open(tmp_path / "q.medfm")
    names = [f"{backend}-cpu-int8", f"{backend}-cpu-int8-reduced"]
    assert [v.name for v in bundle.manifest.variants if v.backend == backend] == names
    for name, largest in zip(names, (127, 64), strict=True):
        variant = bundle.variant(name)
        assert replay_goldens(bundle, variant, open_variant(bundle, variant, 1)) < 1e-3
        assert largest_weight([bundle.read(file) for file in variant.files]) <= largest
    assert any("by int8-nncf+histogram kept" in step for step in bundle.manifest.provenance.steps)
    assert "nncf" in bundle.manifest.provenance.libraries


def test_without_nncf_the_search_says_so_and_goes_on(source, tmp_path, monkeypatch):
    monkeypatch.setattr(build_candidate, "is_installed", lambda: False)
    few = lambda starts, lookup: iter([starts[0], *nncf_candidates(lookup, ("fp32",))])  # noqa: E731
    monkeypatch.setattr(candidate_search, "candidates", few)
    options = msgspec.structs.replace(FEW, targets=("onnxruntime:cpu",), time_budget_s=600.0, reduced_range=False)
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", options)
    (nncf,) = [candidate for candidate in quantized.candidates if "nncf" in candidate.method]
    assert not nncf.kept and "pip install 'medfm-compress[toolchain]'" in nncf.reason
    assert quantized.applied
