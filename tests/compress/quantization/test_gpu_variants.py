"""Variants for TensorRT: made without a GPU, judged by their files, qualified where they run."""

from __future__ import annotations

import sys

import msgspec
import numpy as np
import onnx
import pytest
import simulated_gpu
import tiny_study

from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.quantization import quantize_bundle as module_under_test
from medfm_compress.compress.quantization.options import QuantizeOptions
from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.runtime import Engine
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.golden_cases import read_golden_inputs, read_golden_logits, run_goldens
from medfm_compress.runtime.sessions import cuda_driver
from medfm_compress.runtime.sessions.table import open_variant

FEW = QuantizeOptions(samples=16, error_limit=0.2, auroc_limit=1.0, rounds=5)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "fp32.medfm"
    draft = BundleDraft(
        name="tiny", spec=tiny_study.SPEC, task=tiny_study.TASK, provenance=Provenance(), intended_use="testing"
    )
    build_bundle(tiny_study.make_module(48), draft, path, study=tiny_study.make_study())
    return path


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)


def play(monkeypatch, int8_ms):
    """Stand in for the fresh processes, which have no simulated GPU; floats take 2 ms."""

    def fresh(trials, spec, task, plan, columns=()):
        times = [int8_ms if trial.variant.precision == "int8" else 2.0 for trial in trials]
        return [Measurement(name="x", target="played", calls_per_round=2, session_ms=(ms,) * 20) for ms in times]

    monkeypatch.setattr(module_under_test, "time_in_fresh_processes", fresh)


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    library = simulated_gpu.compile_driver(tmp_path)
    module = simulated_gpu.bindings(library)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setitem(cuda_driver._LIBRARIES, sys.platform, str(library))
    return module


def quantized(source, tmp_path, *targets, **changes):
    options = msgspec.structs.replace(FEW, targets=targets, **changes)
    done = quantize_bundle(source, tiny_study.make_study(), tmp_path / "q.medfm", options)
    return done, Bundle.open(tmp_path / "q.medfm")


def held(bundle, name):
    """Operators and element types of a variant's file."""
    model = onnx.load_from_string(bundle.read(bundle.variant(name).files[0]))
    kinds = {node.op_type for node in model.graph.node}
    return model, kinds, {onnx.TensorProto.DataType.Name(each.data_type) for each in model.graph.initializer}


def test_a_target_without_a_precision_gives_fp16_beside_what_was_there(source, tmp_path, no_gpu):
    done, bundle = quantized(source, tmp_path, "tensorrt:cuda")
    names = [variant.name for variant in bundle.manifest.variants]
    assert names == ["tensorrt-cuda-fp16", "onnxruntime-cpu-fp32", "openvino-cpu-fp32"]
    assert bundle.manifest.schema_version == 4 and done.applied
    model, kinds, types = held(bundle, names[0])
    assert "FLOAT16" in types and "Cast" in kinds
    ends = [end.type.tensor_type.elem_type for end in (*model.graph.input, *model.graph.output)]
    assert ends == [onnx.TensorProto.FLOAT] * 2
    (kept,) = [candidate for candidate in done.candidates if candidate.kept]
    assert 0 < kept.relative_logit_error < 0.01 and kept.p50_ms == 0
    assert "not timed, for no GPU was at hand" in kept.reason


def test_fp32_on_a_gpu_is_a_variant_like_any_other(source, tmp_path, no_gpu):
    done, bundle = quantized(source, tmp_path, "tensorrt:cuda:fp32", "tensorrt:cuda:fp16")
    names = {variant.name for variant in bundle.manifest.variants}
    assert names == {"tensorrt-cuda-fp32", "tensorrt-cuda-fp16", "onnxruntime-cpu-fp32", "openvino-cpu-fp32"}
    (fp32,) = [candidate for candidate in done.candidates if candidate.variant == "tensorrt-cuda-fp32"]
    assert done.applied and fp32.kept and fp32.is_judged and not fp32.is_reference
    assert fp32.relative_logit_error < 1e-4
    assert any(
        step.startswith("quantize: tensorrt-cuda-fp32 by fp32 kept") for step in bundle.manifest.provenance.steps
    )
    alone, _ = quantized(source, tmp_path, "tensorrt:cuda:fp32")
    assert alone.applied


def test_without_a_cpu_target_the_thresholds_follow_the_network_itself(source, tmp_path, no_gpu):
    done, bundle = quantized(source, tmp_path, "tensorrt:cuda:fp16")
    (threshold,) = done.thresholds
    assert bundle.manifest.task.operating_points and threshold.variant == "tensorrt-cuda-fp16"
    assert threshold.fp32_threshold == bundle.manifest.task.operating_points[0].threshold
    assert threshold.cases == len([case for case in tiny_study.make_study().split("val") if case.target])


def test_bf16_is_judged_as_well(source, tmp_path, no_gpu):
    done, bundle = quantized(source, tmp_path, "tensorrt:cuda:bf16")
    _, _, types = held(bundle, "tensorrt-cuda-bf16")
    assert "BFLOAT16" in types and "FLOAT" not in types
    (kept,) = [candidate for candidate in done.candidates if candidate.kept]
    assert 0.001 < kept.relative_logit_error < 0.1


def test_int8_is_symmetric_with_constants_before_their_dequantizelinear(source, tmp_path, no_gpu):
    _, bundle = quantized(source, tmp_path, "tensorrt:cuda:int8", "tensorrt:cuda:int8-fp16")
    for name, half in (("tensorrt-cuda-int8", False), ("tensorrt-cuda-int8-fp16", True)):
        model, kinds, types = held(bundle, name)
        assert {"QuantizeLinear", "DequantizeLinear"} < kinds and ("FLOAT16" in types) == half
        assert "UINT8" not in types
        stored = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
        produced = {output for node in model.graph.node for output in node.output}
        weights = 0
        for node in model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert not stored[node.input[2]].any()  # every zero point is 0
            if node.op_type == "DequantizeLinear" and node.input[0] not in produced:
                weights += stored[node.input[0]].dtype == np.int8
        assert weights > 0


def test_fp8_has_scales_in_fp16_and_weights_of_eight_bits(source, tmp_path, no_gpu):
    done, bundle = quantized(source, tmp_path, "tensorrt:cuda:fp8-fp16", error_limit=1.0)
    _, kinds, types = held(bundle, "tensorrt-cuda-fp8-fp16")
    assert {"FLOAT8E4M3FN", "FLOAT16"} <= types and {"QuantizeLinear", "DequantizeLinear"} < kinds
    (kept,) = [candidate for candidate in done.candidates if candidate.kept]
    assert 0.01 < kept.relative_logit_error < 0.5


def test_the_goldens_are_the_float_networks(source, tmp_path, no_gpu):
    _, bundle = quantized(source, tmp_path, "tensorrt:cuda:int8")
    fp32 = open_variant(bundle, bundle.variant("onnxruntime-cpu-fp32"), 1)
    expected = run_goldens(fp32, read_golden_inputs(bundle))
    assert np.array_equal(read_golden_logits(bundle, bundle.variant("tensorrt-cuda-int8")), expected)


def test_what_misses_the_limits_does_not_ship_and_says_why(source, tmp_path, no_gpu):
    done, bundle = quantized(source, tmp_path, "tensorrt:cuda:int8", "tensorrt:cuda:fp16", error_limit=1e-9)
    assert not done.applied and done.thresholds == ()
    assert bundle.manifest.variants == Bundle.open(source).manifest.variants
    reasons = [candidate.reason for candidate in done.candidates]
    assert len(reasons) > 2 and all("is above the limit 1e-09" in reason for reason in reasons)


def test_of_several_candidates_the_most_faithful_ships(source, tmp_path, no_gpu):
    done, _ = quantized(source, tmp_path, "tensorrt:cuda:int8")
    (kept,) = [candidate for candidate in done.candidates if candidate.kept]
    assert kept.relative_logit_error == min(candidate.relative_logit_error for candidate in done.candidates)


@pytest.mark.parametrize("precision", ["int4-weights", "int8-bf16"])
def test_a_precision_that_is_not_made_is_refused(source, tmp_path, precision):
    with pytest.raises(InputError, match=f"does not run in '{precision}'; it runs there in fp32, fp16"):
        quantized(source, tmp_path, f"tensorrt:cuda:{precision}")


def test_cpu_and_gpu_targets_go_together(source, tmp_path, no_gpu):
    _, bundle = quantized(source, tmp_path, "onnxruntime:cpu", "tensorrt:cuda", time_budget_s=0.0, optimised=False)
    assert bundle.manifest.variants[0].name == "tensorrt-cuda-fp16"
    assert {variant.device for variant in bundle.manifest.variants} == {"cuda", "cpu"}


def test_a_device_runs_it_after_its_goldens_and_without_a_gpu_it_is_passed_over(source, tmp_path, gpu, monkeypatch):
    play(monkeypatch, 1.0)
    _, bundle = quantized(source, tmp_path, "tensorrt:cuda")
    with Engine(bundle.path, threads=1, unverified=True) as engine:
        assert engine.variant.name == "tensorrt-cuda-fp16" and 0 < engine.golden_error < 0.01
    gpu.flaw = 3.0
    with pytest.raises(BundleRefused, match="computes something else"):
        Engine(bundle.path, threads=1, unverified=True)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with Engine(bundle.path, threads=1, unverified=True) as engine:
        assert engine.variant.device == "cpu"


@pytest.mark.parametrize(("int8_ms", "ships"), [(1.0, True), (2.0, False), (3.0, False)])
def test_on_a_gpu_int8_ships_only_if_it_is_faster_than_fp16(source, tmp_path, gpu, monkeypatch, int8_ms, ships):
    play(monkeypatch, int8_ms)
    done, bundle = quantized(source, tmp_path, "tensorrt:cuda:fp16", "tensorrt:cuda:int8")
    names = [variant.name for variant in bundle.manifest.variants if variant.device == "cuda"]
    assert names == (["tensorrt-cuda-int8", "tensorrt-cuda-fp16"] if ships else ["tensorrt-cuda-fp16"])
    reasons = " ".join(candidate.reason for candidate in done.candidates)
    assert ("not faster than the float variants on this GPU" in reasons) != ships
