"""Fitting layer by layer: pieces give what the whole gives, moments are those of the columns, errors fall."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.layer_moments import grouped, measure, ungrouped
from medfm_compress.compress.quantization.partial_runs import PartialRuns
from medfm_compress.compress.quantization.placement_onnxruntime import place
from medfm_compress.compress.quantization.qdq import write_qdq
from medfm_compress.compress.quantization.range_estimators import Range, estimate_ranges
from medfm_compress.compress.quantization.reconstruction import least_squares, reconstruct
from medfm_compress.compress.quantization.weights import constant, layers
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions.onnxruntime import from_bytes

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 12, 12] image) => (float[1, 5] logits)
<float[8, 3, 3, 3] w0, float[8] b0, float[8, 1, 3, 3] w1, float[12, 4, 1, 3] w2, float[8, 8, 1, 1] w3,
 int64[3] tokens = {1, 12, -1}, float[12, 10] w4, float[10] b4, float[10, 12] w5, int64[1] one = {1},
 float[5, 12] w6, float[5] b6>
{
  c0 = Conv <strides = [2, 1], pads = [1, 0, 1, 2]> (image, w0, b0)
  r0 = Relu (c0)
  c1 = Conv <group = 8, dilations = [2, 1], pads = [2, 1, 2, 1]> (r0, w1)
  sum = Add (r0, c1)
  r1 = Relu (sum)
  c2 = Conv <group = 2, strides = [1, 2]> (r1, w2)
  flat = Reshape (c2, tokens)
  x = Transpose <perm = [0, 2, 1]> (flat)
  m4 = MatMul (x, w4)
  a4 = Add (b4, m4)
  gelu = Gelu (a4)
  m5 = MatMul (gelu, w5)
  mean = ReduceMean <keepdims = 0> (m5, one)
  logits = Gemm <transB = 1> (mean, w6, b6)
}
"""


@pytest.fixture(scope="module")
def model() -> ir.Model:
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    present = {tensor.name for tensor in proto.graph.initializer}
    for info in [info for info in proto.graph.value_info if info.name not in present]:
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        values = random.standard_normal(dims) / np.sqrt(max(np.prod(dims[1:]), 1))
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), info.name))
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.name = str(node.output[0])
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def _images(seed: int, count: int = 24) -> NDArray[np.float32]:
    """Neighbouring values are related, as in photographs."""
    random = np.random.default_rng(seed)
    coarse = np.kron(random.uniform(0, 1, (count, 3, 4, 4)), np.ones((1, 1, 3, 3)))
    return (coarse + random.uniform(0, 0.5, coarse.shape)).astype(np.float32)


def _logits(model: ir.Model, images: NDArray[np.float32], precision: str = "fp32") -> NDArray[np.float32]:
    session = from_bytes([ir.to_proto(model).SerializeToString()], 1, precision)
    return np.concatenate([session.run({"image": images[i : i + 1]})["logits"] for i in range(len(images))])


def test_pieces_give_what_the_whole_gives(model):
    images = _images(1, 3)
    runs = PartialRuns(model, images)
    for name in ("c0", "c1", "m4"):
        runs.run_until(name)
        runs.set_next(runs.try_next())
    runs.run_until("logits")
    np.testing.assert_allclose(np.concatenate(runs.try_next()), _logits(model, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["c0", "c1", "c2", "m4", "logits"])
def test_least_squares_find_the_weight_that_made_the_results(model, name):
    images = _images(2, 60)
    other = model.clone()
    node = next(node for node in other.graph if node.name == name)
    weight = constant(node.inputs[1])
    changed = weight + np.random.default_rng(3).standard_normal(weight.shape).astype(np.float32) * 0.1
    node.inputs[1].const_value = ir.tensor(changed)
    runs = [PartialRuns(graph, images) for graph in (model, other)]
    for run in runs:
        run.run_until(name)
    layer = next(layer for layer in layers(model.graph) if layer.name == name)
    rows = grouped(layer, weight)
    inputs = runs[0].value(str(layer.input.name))
    missing = [theirs - mine for mine, theirs in zip(*(run.try_next() for run in runs), strict=True)]
    found = ungrouped(layer, rows + least_squares(measure(layer, rows, inputs, missing), (1e-5,)), weight.shape)
    node.inputs[1].const_value = ir.tensor(found)
    again = PartialRuns(other, images)
    again.run_until(name)
    left = [y - y_found for y, y_found in zip(runs[1].try_next(), again.try_next(), strict=True)]
    spread = [np.std(values, axis=0).max() for values in (left, missing)]  # what biases make up for left out
    assert spread[0] < 0.05 * spread[1]


def test_nothing_is_fitted_to_noise():
    random = np.random.default_rng(0)
    text = "<ir_version: 10, opset_import: [\"\" : 20]> n (float[1, 4, 6] x) => (float[1, 4, 3] y) <float[6, 3] w> "
    proto = onnx.parser.parse_model(text + "{ y = MatMul (x, w) }")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((6, 3), np.float32), "w"))
    del proto.graph.value_info[:]
    (layer,) = layers(ir.from_proto(proto).graph)
    inputs, noise = (list(random.standard_normal((4, 1, 4, size)).astype(np.float32)) for size in (6, 3))
    halves = measure(layer, grouped(layer, np.ones((6, 3), np.float32)), inputs, noise)
    assert not least_squares(halves, (1e-3,)).any()


@pytest.mark.parametrize("refit", [False, True])
def test_int8_errs_less(model, refit):
    images, others = _images(1), _images(4)
    statistics = calibrate(ir.to_proto(model).SerializeToString(), [images])
    # ranges that clip: what is cut off is missing on the average, and part of it follows from what is left
    ranges = {name: Range(0.6 * low, 0.6 * high) for name, (low, high) in estimate_ranges(statistics, "minmax").items()}
    reference = _logits(model, others)
    placement = place(model, reduced=True)
    before = relative_logit_error(_logits(write_qdq(model, placement, ranges), others, "int8"), reference)
    fitted = reconstruct(model, placement, ranges, images, refit=refit)
    int8 = write_qdq(fitted.model, place(fitted.model, reduced=True), ranges, fitted.weights)
    assert relative_logit_error(_logits(int8, others, "int8"), reference) < 0.8 * before


def test_equal_inputs_give_equal_bits(model):
    images = _images(1, 8)
    ranges = estimate_ranges(calibrate(ir.to_proto(model).SerializeToString(), [images]), "mse")
    first, second = (reconstruct(model, place(model), ranges, images) for _ in range(2))
    assert first.weights.keys() == second.weights.keys() and "c1" in first.weights
    for name in first.weights:
        np.testing.assert_array_equal(first.weights[name].values, second.weights[name].values)
