"""The ranking of layers against quantizing each alone, in a file and a session of its own."""

from __future__ import annotations

import time
from collections.abc import Collection

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization import placement_openvino
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.layer_sensitivity import rank_layers
from medfm_compress.compress.quantization.qdq import Placement, Symmetric, write_qdq
from medfm_compress.compress.quantization.range_estimators import Range, estimate_ranges
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 8, 8] image) => (float[1, 5] logits)
<float[12, 3, 3, 3] w0, float[12] b0, float[12, 1, 3, 3] w1, float[16, 12, 1, 1] w2, float[16] b2,
 int64[3] tokens = {1, 16, -1}, float[16, 20] w3, float[20] b3, int64[1] one = {1}, float[5, 20] w4, float[5] b4>
{
  c0 = Conv <pads = [1, 1, 1, 1]> (image, w0, b0)
  r0 = Relu (c0)
  c1 = Conv <group = 12> (r0, w1)
  gate = Sigmoid (c1)
  silu = Mul (c1, gate)
  c2 = Conv (silu, w2, b2)
  flat = Reshape (c2, tokens)
  x = Transpose <perm = [0, 2, 1]> (flat)
  m3 = MatMul (x, w3)
  a3 = Add (m3, b3)
  gelu = Gelu (a3)
  mean = ReduceMean <keepdims = 0> (gelu, one)
  logits = Gemm <transB = 1> (mean, w4, b4)
}
"""
LAYERS = ("c0", "c1", "c2", "m3", "logits")


@pytest.fixture(scope="module")
def model() -> ir.Model:
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    for info in proto.graph.value_info:
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if info.name not in initializers:
            values = random.standard_normal(dims) / np.sqrt(max(1, np.prod(dims[1:])))
            proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), info.name))
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.name = str(node.output[0])
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((4, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def ranges(model: ir.Model, images: NDArray[np.float32]) -> dict[str, Range]:
    ranges = estimate_ranges(calibrate(ir.to_proto(model).SerializeToString(), [images]), "minmax")
    return {**ranges, "silu": Range(ranges["silu"].low, 8 * ranges["silu"].high)}  # so that c2 is the worst by far


def logits(model: ir.Model, images: NDArray[np.float32]) -> NDArray[np.float32]:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # no integer kernels
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": images[i : i + 1]})[0] for i in range(len(images))])


@pytest.mark.parametrize(
    ("reduced", "symmetric"), [(False, "none"), (True, "none"), (False, "balanced"), (False, "all")]
)
def test_errors_are_those_of_quantizing_each_layer_alone(
    model: ir.Model, ranges: dict[str, Range], images: NDArray[np.float32], reduced: bool, symmetric: Symmetric
) -> None:
    def place(graph: ir.Model, exclude: Collection[str] = ()) -> Placement:
        return msgspec.structs.replace(placement_openvino.place(graph, exclude, reduced=reduced), others=symmetric)

    before = ir.to_proto(model).SerializeToString()
    ranked = rank_layers(model, ranges, place, images)
    assert ir.to_proto(model).SerializeToString() == before
    assert {layer.name for layer in ranked} == set(LAYERS)
    assert [layer.error for layer in ranked] == sorted((layer.error for layer in ranked), reverse=True)
    for layer in ranked:
        others = [name for name in LAYERS if name != layer.name]
        alone = write_qdq(model, place(model, others), ranges)
        expected = relative_logit_error(logits(alone, images), logits(model, images))
        assert layer.error == pytest.approx(expected, rel=0.02, abs=1e-5)
    assert ranked[0].name == "c2" and ranked[0].local == max(layer.local for layer in ranked)


def test_layers_left_in_float_are_not_ranked(
    model: ir.Model, ranges: dict[str, Range], images: NDArray[np.float32]
) -> None:
    def place(graph: ir.Model, exclude: Collection[str] = ()) -> Placement:
        return placement_openvino.place(graph, [*exclude, "c2", "logits"])

    assert {layer.name for layer in rank_layers(model, ranges, place, images)} == {"c0", "c1", "m3"}
    assert rank_layers(model, ranges, lambda graph, exclude=(): Placement(), images) == ()


def test_with_no_time_left_layers_are_ranked_by_their_own_error(
    model: ir.Model, ranges: dict[str, Range], images: NDArray[np.float32]
) -> None:
    ranked = rank_layers(model, ranges, placement_openvino.place, images, deadline=time.monotonic() - 1)
    assert {layer.name for layer in ranked} == set(LAYERS)
    assert all(np.isnan(layer.error) for layer in ranked)
    assert [layer.local for layer in ranked] == sorted((layer.local for layer in ranked), reverse=True)
    assert ranked[0].name == "c2"


def test_an_activation_without_a_range_is_named(model: ir.Model, images: NDArray[np.float32]) -> None:
    with pytest.raises(InputError, match="no range is known for 'image'"):
        rank_layers(model, {}, placement_openvino.place, images)
