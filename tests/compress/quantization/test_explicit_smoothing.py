"""SmoothQuant by multiplications, on a block that normalises behind its sums: nothing there takes up factors."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.activation_statistics import Statistics
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.explicit_smoothing import smooth_explicitly
from medfm_compress.compress.quantization.placement_onnxruntime import place
from medfm_compress.compress.quantization.qdq import write_qdq
from medfm_compress.compress.quantization.range_estimators import estimate_ranges
from medfm_compress.compress.quantization.smoothquant import smooth
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions.onnxruntime import from_bytes

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 1, 6, 24] image) => (float[1, 5] logits)
<int64[3] tokens = {1, 6, 24}, float[24] gain, float[24] shift, float[24, 24] wv, float[24, 48] w1, float[48] b1,
 float[48, 24] w2, int64[1] one = {1}, float[5, 24] head, float[5] head_bias>
{
  x = Reshape (image, tokens)
  norm = LayerNormalization <axis = -1> (x, gain, shift)
  v = MatMul (norm, wv)
  y = Add (norm, v)
  norm2 = LayerNormalization <axis = -1> (y, gain, shift)
  h = MatMul (norm2, w1)
  hb = Add (h, b1)
  gelu = Gelu (hb)
  m = MatMul (gelu, w2)
  z = Add (norm2, m)
  mean = ReduceMean <keepdims = 0> (z, one)
  logits = Gemm <transB = 1> (mean, head, head_bias)
}
"""


def _network(loud: float) -> ir.Model:
    """A model whose first channel is ``loud`` behind both normalisations, and read by small weights."""
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    present = {tensor.name for tensor in proto.graph.initializer}
    for info in [info for info in proto.graph.value_info if info.name not in present]:
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        values = random.standard_normal(dims) / np.sqrt(max(np.prod(dims[1:]), 1))
        values = np.ones(dims) if info.name == "gain" else values
        if info.name == "gain":
            values[0] = loud
        if info.name in ("wv", "w1"):
            values[0] /= loud
        if info.name == "head":
            values[:, 0] /= loud
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), info.name))
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.name = str(node.output[0])
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def _images(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((20, 1, 6, 24)).astype(np.float32)


def _bytes(model: ir.Model) -> bytes:
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def _logits(model: ir.Model, precision: str = "fp32") -> NDArray[np.float32]:
    session, images = from_bytes([_bytes(model)], 1, precision), _images(2)
    return np.concatenate([session.run({"image": images[i : i + 1]})["logits"] for i in range(len(images))])


def _int8_error(model: ir.Model, statistics: Statistics, reference: NDArray[np.float32]) -> float:
    int8 = write_qdq(model, place(model, reduced=True), estimate_ranges(statistics, "minmax"))
    return relative_logit_error(_logits(int8, "int8"), reference)


@pytest.mark.parametrize("strength", [0.5, 0.85])
def test_the_network_computes_the_same_and_int8_errs_less(strength):
    model = _network(40.0)
    statistics = calibrate(_bytes(model), [_images(1)])
    assert not smooth(model, statistics).layers  # sums read what the layers read
    smoothed = smooth_explicitly(model, statistics, strength, _images(1))
    assert {"v", "h"} <= set(smoothed.layers)
    np.testing.assert_allclose(_logits(smoothed.model), _logits(model), rtol=1e-3, atol=1e-4)
    reference = _logits(model)
    before = _int8_error(model, statistics, reference)
    assert _int8_error(smoothed.model, smoothed.statistics, reference) < 0.5 * before


def test_the_new_statistics_are_those_of_the_new_graph():
    model = _network(40.0)
    smoothed = smooth_explicitly(model, calibrate(_bytes(model), [_images(1)]), 0.7, _images(1))
    measured = calibrate(_bytes(smoothed.model), [_images(1)])
    new = [name for name in smoothed.statistics if name.endswith("_divided")]
    assert len(new) >= 2
    for name in new:
        assert smoothed.statistics[name].high == pytest.approx(measured[name].high, rel=1e-3)
        assert smoothed.statistics[name].counts is not None


def test_channels_that_are_level_are_left_alone():
    model = _network(1.0)
    smoothed = smooth_explicitly(model, calibrate(_bytes(model), [_images(1)]), 0.7)
    assert not {"v", "h"} & set(smoothed.layers)
