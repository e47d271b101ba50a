import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.evaluate import evaluate
from medfm_compress.bench.operating_points import choose_operating_points
from medfm_compress.compress import quantize as module_under_test
from medfm_compress.compress.int8_onnxruntime import candidates, has_attention
from medfm_compress.compress.quantize import QuantizeOptions, quantize_bundle
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.export.cases import network_inputs
from medfm_compress.runtime.bundle import Bundle
from medfm_compress.runtime.errors import InputError, StudyError
from medfm_compress.runtime.goldens import replay_goldens
from medfm_compress.runtime.manifest import Provenance
from medfm_compress.runtime.sessions.table import open_variant

_spec = importlib.util.spec_from_file_location("tiny_study", Path(__file__).parents[1] / "tiny_study.py")
tiny_study = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tiny_study)

FEW = QuantizeOptions(samples=16, rounds=5, error_limit=10.0)


def clock(fp32_ms, int8_ms):
    """Stand in for the clock: FP32 is timed first in each group."""
    return lambda sessions, image, rounds: [fp32_ms, *[int8_ms] * (len(sessions) - 1)]


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
    monkeypatch.setattr(module_under_test, "interleaved_p50_ms", clock(2.0, 1.0))
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", FEW)
    bundle = Bundle.open(tmp_path / "q.medfm")
    assert quantized.applied
    assert {v.name for v in bundle.manifest.variants} == {"onnxruntime-cpu-int8", "openvino-cpu-int8"}
    for variant in bundle.manifest.variants:
        assert variant.instruction_set == ("avx512_vnni|avx_vnni",)
        assert replay_goldens(bundle, variant, open_variant(bundle, variant, 1)) < 1e-3
    assert {c.method for c in quantized.candidates if c.kept} < {c.method for c in quantized.candidates}
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
    monkeypatch.setattr(module_under_test, "interleaved_p50_ms", clock(2.0, 1.0))
    study = tiny_study.make_study(val=160)
    options = msgspec.structs.replace(FEW, validation_samples=30, targets=("onnxruntime",), keep_fp32=True)
    quantize_bundle(many, study, tmp_path / "q.medfm", options)
    bundle = Bundle.open(tmp_path / "q.medfm")
    int8, fp32 = bundle.variant("onnxruntime-cpu-int8"), bundle.variant("onnxruntime-cpu-fp32")
    assert bundle.manifest.task == Bundle.open(many).manifest.task == bundle.manifest.task_of(fp32)
    task = bundle.manifest.task_of(int8)
    session = open_variant(bundle, int8, 1)
    (wanted,) = choose_operating_points(
        evaluate(session, study, study.split("val"), tiny_study.SPEC, task, name="int8"), rule="youden"
    )
    (found,) = task.operating_points
    assert (found.positives, found.negatives) == (80, 80)
    assert found.threshold == pytest.approx(wanted.threshold, abs=1e-9)
    assert not any(name.startswith("test") for name in study.source.read_images)
    steps = [step for step in bundle.manifest.provenance.steps if "onnxruntime-cpu-int8: " in step]
    assert any("threshold of spot" in step for step in steps) and any("temperature" in step for step in steps)


def test_thresholds_are_left_where_asked_and_where_cases_are_too_few(many, source, tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test, "interleaved_p50_ms", clock(2.0, 1.0))
    options = msgspec.structs.replace(FEW, targets=("onnxruntime",))
    left = msgspec.structs.replace(options, rechoose=False)
    manifest = quantize_bundle(many, tiny_study.make_study(val=160), tmp_path / "left.medfm", left).manifest
    assert not any(variant.decides_itself for variant in manifest.variants) and manifest.schema_version == 1
    manifest = quantize_bundle(source, tiny_study.make_study(), tmp_path / "few.medfm", options).manifest
    assert not any(variant.decides_itself for variant in manifest.variants)
    assert any(
        "threshold of spot stays" in step and "8 with it and 8 without" in step for step in manifest.provenance.steps
    )


def test_int8_that_is_slower_is_refused_with_a_reason(source, tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test, "interleaved_p50_ms", clock(1.0, 1.2))
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", FEW)
    assert not quantized.applied
    tried = [candidate for candidate in quantized.candidates if candidate.method != "fp32"]
    assert tried and all("not faster than FP32" in candidate.reason for candidate in tried)
    bundle = Bundle.open(tmp_path / "q.medfm")
    assert bundle.manifest.model_digest == Bundle.open(source).manifest.model_digest
    assert any("not faster than FP32" in step for step in bundle.manifest.provenance.steps)


def test_int8_that_is_unfaithful_is_refused_with_a_reason(source, tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test, "interleaved_p50_ms", clock(2.0, 1.0))
    strict = msgspec.structs.replace(FEW, error_limit=1e-9)
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", strict)
    assert not quantized.applied
    assert all("above the limit" in c.reason for c in quantized.candidates if c.method != "fp32")


def test_fp32_is_kept_only_when_asked_for(source, tmp_path, monkeypatch):
    monkeypatch.setattr(module_under_test, "interleaved_p50_ms", clock(2.0, 1.0))
    keep = msgspec.structs.replace(FEW, keep_fp32=True, targets=("onnxruntime",))
    quantized = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", keep)
    names = [v.name for v in quantized.manifest.variants]
    assert names[:2] == ["onnxruntime-cpu-int8", "onnxruntime-cpu-fp32"]  # fastest first
    assert "openvino-cpu-fp32" in names  # not a target: left alone


def test_calibration_sees_training_cases_only_and_test_cases_are_never_read(source, tmp_path, monkeypatch):
    seen = []
    original = module_under_test.int8_openvino.quantize_openvino

    def spy(onnx, calibration, method, *, attention):
        seen.append(calibration)
        return original(onnx, calibration, method, attention=attention)

    monkeypatch.setattr(module_under_test.int8_openvino, "quantize_openvino", spy)
    study = tiny_study.make_study()
    quantized = quantize_bundle(source, study, tmp_path / "q.medfm", FEW)
    train = {case.image: case for case in study.split("train")}
    assert len(quantized.calibration_images) == 16 and set(quantized.calibration_images) <= train.keys()
    wanted = network_inputs(study, [train[name] for name in quantized.calibration_images], tiny_study.SPEC)
    assert seen and all(np.array_equal(calibration, wanted) for calibration in seen)
    assert not any(name.startswith("test") for name in study.source.read_images)


def test_the_seed_decides_which_cases(source, tmp_path):
    one = msgspec.structs.replace(FEW, targets=("onnxruntime",))
    study = tiny_study.make_study()
    images = [
        quantize_bundle(source, study, tmp_path / "q", msgspec.structs.replace(one, seed=seed)).calibration_images
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
    monkeypatch.setattr(module_under_test, "interleaved_p50_ms", clock(2.0, 1.0))
    quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", FEW)
    with pytest.raises(InputError, match="no FP32 ONNX variant"):
        quantize_bundle(tmp_path / "q.medfm", tiny_study.make_study(), tmp_path / "r.medfm", FEW)
    with pytest.raises(InputError, match="samples is 1"):
        QuantizeOptions(samples=1)


def test_files_shrink_about_fourfold_and_bytes_repeat(tmp_path):
    import torch
    from torch import nn

    from medfm_compress.compress.int8_onnxruntime import quantize_onnxruntime
    from medfm_compress.compress.int8_openvino import quantize_openvino
    from medfm_compress.export.onnx_export import export_onnx

    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 256, 4, 4), nn.ReLU(), nn.Conv2d(256, 512, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(512, 2),
    )  # fmt: skip
    onnx = export_onnx(module, tiny_study.SPEC, tiny_study.TASK).content
    study = tiny_study.make_study()
    inputs = network_inputs(study, study.split("train")[:8], tiny_study.SPEC)
    for make in (
        lambda: quantize_openvino(onnx, inputs, "nncf-minmax", attention=False),
        lambda: (quantize_onnxruntime(onnx, inputs, "qdq-minmax"),),
    ):
        files = make()
        assert sum(map(len, files)) < len(onnx) / 3.5
        assert files == make()
    assert not has_attention(onnx) and "dynamic" not in candidates(attention=False)
    assert "dynamic" in candidates(attention=True)


QUIET = """
import socket, sys
def refuse(*_):
    raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = refuse
import importlib.util
spec = importlib.util.spec_from_file_location("tiny_study", sys.argv[1])
tiny = importlib.util.module_from_spec(spec); spec.loader.exec_module(tiny)
from medfm_compress.export.onnx_export import export_onnx
from medfm_compress.compress.int8_openvino import quantize_openvino
from medfm_compress.export.cases import network_inputs
study = tiny.make_study()
onnx = export_onnx(tiny.make_module(), tiny.SPEC, tiny.TASK).content
quantize_openvino(onnx, network_inputs(study, study.split("train")[:8], tiny.SPEC), "nncf-default", attention=False)
from nncf.telemetry import telemetry
assert type(telemetry).__name__ == "MagicMock", type(telemetry)
"""


def test_quantizing_prints_nothing_calls_nobody_and_leaves_no_file_at_home(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "ORT_DISABLE_TELEMETRY": "1"}
    path = Path(__file__).parents[1] / "tiny_study.py"
    done = subprocess.run(
        [sys.executable, "-c", QUIET, str(path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
