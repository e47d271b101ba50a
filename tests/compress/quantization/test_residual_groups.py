"""Equalization along residual streams: the function stays, a loud channel no longer costs the others their levels."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.placement_onnxruntime import place
from medfm_compress.compress.quantization.qdq import write_qdq
from medfm_compress.compress.quantization.range_estimators import estimate_ranges
from medfm_compress.compress.quantization.residual_groups import residual_groups
from medfm_compress.compress.quantization.smoothquant import smooth
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions.onnxruntime import from_bytes

# A stream with ReLUs and a pooled classifier, one of linear bottlenecks, and, on demand, what forbids it.
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 8, 8] image) => (float[1, 5] logits)
<float[12, 3, 3, 3] stem_w, float[12] stem_b, float[6, 12, 1, 1] a_w, float[12, 6, 3, 3] b_w, float[12] b_b,
 float[8, 12, 1, 1] c_w, float[8] c_b, float[16, 8, 1, 1] d_w, float[8, 16, 1, 1] e_w, float[10, 8, 1, 1] f_w,
 float[5, 10] head_w, float[5] head_b>
{
  stem = Conv <pads = [1, 1, 1, 1]> (image, stem_w, stem_b)
  x = Relu (stem)
  a = Conv (x, a_w)
  a_relu = Relu (a)
  b = Conv <pads = [1, 1, 1, 1]> (a_relu, b_w, b_b)
  sum = Add (x, b)
  y = FIRST (sum)
  c = Conv (y, c_w, c_b)
  d = Conv (c, d_w)
  d_swish = HardSwish (d)
  e = Conv (d_swish, e_w)
  z = Add (c, e)
  f = Conv (z, f_w)
  f_swish = HardSwish (f)
  pooled = GlobalAveragePool (f_swish)
  flat = Flatten (pooled)
  logits = Gemm <transB = 1> (flat, head_w, head_b)
}
"""
LOUD = 40.0


def _model(operator: str = "Relu") -> ir.Model:
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT.replace("FIRST", operator))
    present = {tensor.name for tensor in proto.graph.initializer}
    for info in [info for info in proto.graph.value_info if info.name not in present]:
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        values = random.standard_normal(dims) / np.sqrt(max(np.prod(dims[1:]), 1))
        if info.name in ("stem_w", "stem_b", "b_w", "b_b", "c_w", "c_b", "e_w"):
            values[0] *= LOUD  # the first channel of both streams
        if info.name in ("a_w", "c_w", "d_w", "f_w"):
            values[:, 0] /= LOUD
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), info.name))
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.name = str(node.output[0])
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def _images(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(0, 1, (20, 3, 8, 8)).astype(np.float32)


def _bytes(model: ir.Model) -> bytes:
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def _logits(model: ir.Model, images: NDArray[np.float32], precision: str = "fp32") -> NDArray[np.float32]:
    session = from_bytes([_bytes(model)], 1, precision)
    return np.concatenate([session.run({"image": images[i : i + 1]})["logits"] for i in range(len(images))])


def test_a_stream_holds_all_that_is_added_and_all_that_reads_it():
    first, second = residual_groups(_model().graph)
    assert {value.name for value in first.values} == {"stem", "x", "b", "sum", "y"}
    assert {layer.name for layer in first.layers} == {"a", "c"}
    assert {(item.node.name, item.slot) for item in first.divided} == {("stem", 1), ("stem", 2), ("b", 1), ("b", 2)}
    assert {value.name for value in second.values} == {"c", "e", "z"}
    assert {layer.name for layer in second.layers} == {"d", "f"}


@pytest.mark.parametrize("operator", ["HardSwish", "Sigmoid", "Softplus"])
def test_what_does_not_commute_with_factors_forbids_it(operator):
    assert [len(group.values) for group in residual_groups(_model(operator).graph)] == [3]  # the second stream alone


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_network_computes_the_same_and_its_streams_are_even(strength):
    model, images = _model(), _images(1)
    statistics = calibrate(_bytes(model), [images])
    equalized = smooth(model, statistics, strength, images, residual_groups)
    np.testing.assert_allclose(_logits(equalized.model, images), _logits(model, images), rtol=2e-4, atol=2e-4)
    measured = calibrate(_bytes(equalized.model), [images])
    for name in ("y", "z"):
        assert equalized.statistics[name].high == pytest.approx(measured[name].high, rel=1e-3)
        before, after = (np.abs(s[name].channel_high) for s in (statistics, equalized.statistics))
        assert after.max() / np.median(after) < before.max() / np.median(before)


def test_int8_errs_less_on_a_stream_with_a_loud_channel():
    model, images, others = _model(), _images(1), _images(2)
    reference = _logits(model, others)
    statistics = calibrate(_bytes(model), [images])
    errors = []
    for graph, known in ((model, statistics), smooth(model, statistics, 0.5, images, residual_groups)[:2]):
        ranges = estimate_ranges(known, "minmax")
        int8 = write_qdq(graph, place(graph, reduced=True), ranges)
        errors.append(relative_logit_error(_logits(int8, others, "int8"), reference))
    assert errors[1] < 0.5 * errors[0]
