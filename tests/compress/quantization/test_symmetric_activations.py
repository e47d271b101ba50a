"""Activations without a zero point, where a CPU multiplies them faster: in the graph, and in a whole bundle."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx.parser
import pytest
import tiny_study
from played_clocks import FEW, play_clocks

from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.target import Target
from medfm_compress.compress.latency import network_latency
from medfm_compress.compress.latency.latency_goal import LatencyGoal
from medfm_compress.compress.quantization import companion_variants, targets
from medfm_compress.compress.quantization.build_candidate import GraphBuilder
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.compress.quantization.qdq import Symmetric
from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
from medfm_compress.export.build import BundleDraft, build_bundle
from medfm_compress.runtime.bundle.manifest import Provenance
from medfm_compress.runtime.cpu import Cpu
from medfm_compress.runtime.sessions.table import open_session_from_bytes

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 1, 4, 6] image) => (float[1, 1, 4, 5] logits)
<float[6, 8] w0, float[8, 8] w1, float[8, 5] w2>
{
  [m0] a = MatMul (image, w0)
  [gelu] b = Gelu (a)
  [m1] c = MatMul (b, w1)
  [relu] d = Relu (c)
  [m2] logits = MatMul (d, w2)
}
"""
AMX = Cpu(model="A CPU with AMX", flags=frozenset({"avx2", "avx512bw", "avx512_vnni", "amx_int8"}))
VNNI = Cpu(model="A CPU with VNNI", flags=AMX.flags - {"amx_int8"})


@pytest.fixture(scope="module")
def builder() -> GraphBuilder:
    """Of a network whose three layers read a balanced, a skewed, and a non-negative activation."""
    return builder_of(TEXT)


def builder_of(text: str) -> GraphBuilder:
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for name, shape in {"w0": (6, 8), "w1": (8, 8), "w2": (8, 5)}.items():
        values = random.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    graph = onnx.shape_inference.infer_shapes(model).SerializeToString()
    images = random.uniform(-1, 1, (32, 1, 4, 6)).astype(np.float32)
    return GraphBuilder(graph, calibrate(graph, [image[None] for image in images], threads=1), images)


def zero_points(builder: GraphBuilder, symmetric: Symmetric) -> dict[str, int]:
    """Of ONNX files: OpenVINO's IR is made from such, with its placement for the same pairs."""
    (content,) = builder.build("onnxruntime", Method(symmetric=symmetric))
    graph = onnx.load_from_string(content).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    return {node.input[0]: int(held[node.input[2]]) for node in pairs if held[node.input[2]].ndim == 0}


def test_each_step_takes_more_zero_points_away(builder: GraphBuilder) -> None:
    found = {which: zero_points(builder, which) for which in ("none", "balanced", "all")}
    assert [sum(map(bool, zeros.values())) for zeros in found.values()] == [2, 1, 0]
    assert found["balanced"]["image"] == 0 != found["none"]["image"] and found["all"].keys() == found["none"].keys()


def test_whether_more_can_be_left_out_is_known_without_building(builder: GraphBuilder) -> None:
    assert builder.is_skewed("openvino")
    text = TEXT.replace("[gelu] b = Gelu (a)", "[relu0] b = Relu (a)")
    assert not builder_of(text).is_skewed("openvino")


def test_openvino_computes_the_same_network(builder: GraphBuilder) -> None:
    pytest.importorskip("openvino")
    image = np.random.default_rng(1).uniform(-1, 1, (1, 1, 4, 6)).astype(np.float32)
    logits = []
    for symmetric in ("none", "balanced", "all"):
        files = builder.build("openvino", Method(symmetric=symmetric, reduced=True))
        session = open_session_from_bytes("openvino", list(files), 1, "int8")
        logits.append(session.run({"image": image})["logits"])
    size = np.abs(logits[0]).max()
    assert 0 < np.abs(logits[1] - logits[0]).max() < 0.05 * size
    assert 0 < np.abs(logits[2] - logits[1]).max() < 0.05 * size


@pytest.mark.parametrize(("cpu", "first"), [(AMX, "int8-balanced-symmetric+minmax"), (VNNI, "int8-minmax")])
def test_a_bundle_made_with_amx_has_them_where_they_are_fastest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpu: Cpu, first: str
) -> None:
    monkeypatch.undo()  # `conftest` keeps AMX away
    play_clocks(monkeypatch, 2.0, 1.0)
    monkeypatch.setattr(targets, "read_cpu", lambda: cpu)
    monkeypatch.setattr(companion_variants, "speedup_on", lambda *_: Interval(estimate=2.0, low=1.9, high=2.1))
    draft = BundleDraft(
        name="tiny", spec=tiny_study.SPEC, task=tiny_study.TASK, provenance=Provenance(), intended_use="testing"
    )
    build_bundle(tiny_study.make_module(48), draft, tmp_path / "fp32.medfm", study=tiny_study.make_study())
    options = msgspec.structs.replace(FEW, time_budget_s=30.0, nncf=False)
    quantized = quantize_bundle(tmp_path / "fp32.medfm", tiny_study.make_study(), tmp_path / "q.medfm", options)
    tried = {
        backend: [c.method for c in quantized.candidates if c.target.startswith(backend)]
        for backend in ("openvino", "onnxruntime")
    }
    assert next(method for method in tried["openvino"] if method.startswith("int8-")) == first
    assert any(method.startswith("int8-symmetric") for method in tried["openvino"]) == (cpu is AMX)
    assert not any("symmetric" in method and "7-bit" in method for method in tried["openvino"])  # of lesser CPUs
    assert not any("symmetric" in method for method in tried["onnxruntime"])


def test_pruning_times_what_would_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    def method(target: str, cpu: Cpu) -> Method:
        monkeypatch.setattr(network_latency, "read_cpu", lambda: cpu)
        return network_latency.int8_method(LatencyGoal(budget_ms=5.0, target=Target.parse(target)))

    assert method("openvino:cpu:int8", AMX).symmetric == "balanced"
    assert method("onnxruntime:cpu:int8", AMX).symmetric == method("openvino:cpu:int8", VNNI).symmetric == "none"
