"""SmoothQuant and the outlier stress on small graphs: the function stays, the statistics are those of the new graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.outlier_stress import stress
from medfm_compress.compress.quantization.placement_openvino import place
from medfm_compress.compress.quantization.qdq import write_qdq
from medfm_compress.compress.quantization.range_estimators import ESTIMATORS, estimate_ranges
from medfm_compress.compress.quantization.smoothquant import smooth
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.sessions.onnxruntime import from_bytes

TRANSFORMER = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 8, 8] image) => (float[1, 5] logits)
<float[24, 3, 2, 2] patch, int64[3] tokens = {0, 24, -1}, float[24] zeros, float[24] gain, float[24] gain2,
 float[24] shift2, float[24, 24] wq, float[24, 24] wk, float[24, 24] wv, float[24, 48] w1, float[48] b1,
 float[48, 24] w2, int64[1] one = {1}, int64[2] rows = {-1, 24}, float[5, 24] head, float[5] head_bias>
{
  conv = Conv <kernel_shape = [2, 2], strides = [2, 2]> (image, patch, zeros)
  flat = Reshape (conv, tokens)
  x = Transpose <perm = [0, 2, 1]> (flat)
  norm = LayerNormalization <axis = -1> (x, gain, zeros)
  q = MatMul (norm, wq)
  k = MatMul (norm, wk)
  v = MatMul (norm, wv)
  kt = Transpose <perm = [0, 2, 1]> (k)
  scores = MatMul (q, kt)
  p = Softmax <axis = -1> (scores)
  attended = MatMul (p, v)
  y = Add (x, attended)
  norm2 = LayerNormalization <axis = 2> (y, gain2, shift2)
  h = MatMul (norm2, w1)
  hb = Add (h, b1)
  gelu = Gelu (hb)
  m = MatMul (gelu, w2)
  z = Add (y, m)
  last = LayerNormalization (z, gain, zeros)
  token = ReduceMean <keepdims = 0> (last, one)
  token2d = Reshape (token, rows)
  logits = Gemm <transB = 1> (token2d, head, head_bias)
}
"""

CONVOLUTIONS = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 8, 8] image) => (float[1, 5] logits)
<float[12, 3, 3, 3] w0, float[12] b0, float[12, 1, 3, 3] depthwise, float[12] b1, float[16, 12, 1, 1] w2,
 float[16] gain, float[16] shift, float[16] mean, float[16] variance, float[8, 8, 3, 3] w3, float[5, 8] head,
 float[16, 1, 1] offset, int64[2] flat = {1, -1}>
{
  c0 = Conv <pads = [1, 1, 1, 1]> (image, w0, b0)
  r0 = Relu (c0)
  pool = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r0)
  c1 = Conv <pads = [1, 1, 1, 1], group = 12> (pool, depthwise, b1)
  r1 = Relu (c1)
  c2 = Conv (r1, w2)
  sum = Add (c2, offset)
  silu_gate = Sigmoid (sum)
  silu = Mul (sum, silu_gate)
  bn = BatchNormalization (silu, gain, shift, mean, variance)
  r2 = Relu (bn)
  c3 = Conv <group = 2> (r2, w3x)
  global = GlobalAveragePool (c3)
  features = Reshape (global, flat)
  logits = Gemm <transB = 1> (features, head)
}
""".replace("float[8, 8, 3, 3] w3", "float[8, 8, 3, 3] w3x")


def network(text: str) -> ir.Model:
    """The network with random weights; ``zeros`` is shared by nodes that must not change together."""
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(text)
    initializers = {tensor.name for tensor in model.graph.initializer}
    for info in [*model.graph.value_info]:
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if info.name not in initializers:
            values = random.standard_normal(dims) / np.sqrt(max(1, np.prod(dims[1:])))
            values = np.abs(values) + 0.5 if info.name == "variance" else values
            values = 1 + 0.3 * values if "gain" in info.name else values
            values = 0.2 * np.ones(dims) if info.name == "zeros" else values
            model.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), info.name))
    del model.graph.value_info[:]
    for i, node in enumerate(model.graph.node):
        node.name = f"{node.output[0]}_{i}"
    onnx.checker.check_model(model, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


def serialised(model: ir.Model) -> bytes:
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def images(count: int = 6) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, 3, 8, 8)).astype(np.float32)


def logits(model: ir.Model, precision: str = "fp32") -> NDArray[np.float32]:
    session = from_bytes([serialised(model)], 1, precision)
    return np.concatenate([session.run({"image": images()[i : i + 1]})["logits"] for i in range(6)])


@pytest.fixture(params=["transformer", "convolutions"])
def model(request: pytest.FixtureRequest) -> ir.Model:
    return network(TRANSFORMER if request.param == "transformer" else CONVOLUTIONS)


def layers_of(text: str) -> tuple[set[str], set[str]]:
    """Names of the layers that can and cannot be smoothed."""
    if text == "transformer":
        return {"q_4", "k_5", "v_6", "h_13"}, {"conv_0", "m_16", "logits_21"}
    return {"c1_3", "c2_5", "c3_11"}, {"logits_14"}


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_function_stays(model: ir.Model, strength: float) -> None:
    before = serialised(model)
    smoothed = smooth(model, calibrate(before, [images()]), strength)
    assert smoothed.layers
    np.testing.assert_allclose(logits(smoothed.model), logits(model), rtol=1e-4, atol=1e-5)
    assert serialised(model) == before and serialised(smoothed.model) != before


@pytest.mark.parametrize("text", ["transformer", "convolutions"])
def test_only_what_folds_is_smoothed(text: str) -> None:
    """Not through GELU or SiLU, nor where a residual sum or the mean over tokens reads the activation."""
    model = network(TRANSFORMER if text == "transformer" else CONVOLUTIONS)
    smoothed = smooth(model, calibrate(serialised(model), [images()]))
    applied, left = layers_of(text)
    assert set(smoothed.layers) == applied
    old, new = ({node.name: node for node in tensor.graph} for tensor in (model, smoothed.model))
    for name in applied | left:
        weights = (nodes[name].inputs[1].const_value.numpy() for nodes in (old, new))
        assert np.array_equal(*weights) == (name in left)


def test_statistics_are_those_of_the_new_graph(model: ir.Model) -> None:
    """The analytic ones against a second calibration."""
    smoothed = smooth(model, calibrate(serialised(model), [images()]))
    measured = calibrate(serialised(smoothed.model), [images()])
    changed = 0
    for name, tensor in smoothed.statistics.items():
        assert (tensor.low, tensor.high) == pytest.approx((measured[name].low, measured[name].high), rel=1e-4, abs=1e-5)
        if tensor.counts is None:
            changed += 1
            assert measured[name].channel_mean is not None
            for mine, theirs in (
                (tensor.channel_low, measured[name].channel_low),
                (tensor.channel_high, measured[name].channel_high),
                (tensor.channel_mean, measured[name].channel_mean),
            ):
                np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)  # type: ignore[arg-type]
    assert changed >= 2
    assert set(measured) - set(smoothed.statistics) == set()


def test_scales_are_those_of_the_paper() -> None:
    model = network(TRANSFORMER)
    statistics = calibrate(serialised(model), [images()])
    smoothed = smooth(model, statistics, 0.7)
    tensor = statistics["norm2"]
    assert tensor.channel_low is not None and tensor.channel_high is not None
    weight = next(n for n in model.graph if n.name == "h_13").inputs[1].const_value.numpy()  # type: ignore[union-attr]
    largest = np.maximum(-tensor.channel_low, tensor.channel_high)
    expected = largest**0.7 / np.abs(weight).max(axis=1) ** 0.3
    gains = [
        next(n for n in graph.graph if n.outputs[0].name == "norm2").inputs[1].const_value.numpy()  # type: ignore[union-attr]
        for graph in (model, smoothed.model)
    ]
    np.testing.assert_allclose(gains[0] / gains[1], expected, rtol=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_smoothed_activations_answer_minmax(estimator: str) -> None:
    model = network(TRANSFORMER)
    smoothed = smooth(model, calibrate(serialised(model), [images()]))
    tensor = smoothed.statistics["norm"]
    assert estimate_ranges(smoothed.statistics, estimator)["norm"] == pytest.approx(
        (min(tensor.low, 0), max(tensor.high, 0))
    )


def test_inputs_give_smoothed_activations_a_histogram() -> None:
    model = network(TRANSFORMER)
    statistics = calibrate(serialised(model), [images()])
    smoothed = smooth(model, statistics, inputs=images()[:4])
    plain, anew = smooth(model, statistics).statistics["norm"], smoothed.statistics["norm"]
    assert anew.counts is not None and anew.counts.sum() == 4 * 16 * 24
    assert (anew.low, anew.high) == (plain.low, plain.high)
    measured = calibrate(serialised(smoothed.model), [images()[:4]])["norm"]
    assert anew.mean_high == pytest.approx(measured.mean_high)
    assert estimate_ranges(smoothed.statistics, "mean-minmax")["norm"].high < anew.high
    assert smoothed.statistics["image"].counts is None  # which is never clipped


def test_dead_channels_do_no_harm(model: ir.Model) -> None:
    """A calibration in which channels never fire, and weights that ignore others."""
    for node in model.graph:
        if node.name in ("q_4", "k_5", "v_6", "h_13"):
            weight = node.inputs[1].const_value.numpy().copy()  # type: ignore[union-attr]
            weight[3] = 0
            node.inputs[1].const_value = ir.tensor(weight)  # type: ignore[union-attr]
    smoothed = smooth(model, calibrate(serialised(model), [np.zeros((1, 3, 8, 8), np.float32)]))
    assert np.isfinite(logits(smoothed.model)).all()
    np.testing.assert_allclose(logits(smoothed.model), logits(model), rtol=1e-3, atol=1e-4)


def test_it_does_not_apply_without_statistics_or_folds() -> None:
    model = network(TRANSFORMER)
    assert smooth(model, {}).layers == ()
    np.testing.assert_array_equal(logits(smooth(model, {}).model), logits(model))
    with pytest.raises(InputError, match=r"strength is 1\.5; it must be between 0 and 1"):
        smooth(model, {}, 1.5)


def test_stress_keeps_the_function_and_makes_outliers(model: ir.Model) -> None:
    before = serialised(model)
    stressed = stress(model, factor=30, share=0.1)
    assert serialised(model) == before
    np.testing.assert_allclose(logits(stressed), logits(model), rtol=1e-3, atol=1e-5)
    plain, grown_statistics = (calibrate(serialised(tensor), [images()]) for tensor in (model, stressed))
    grown = {
        name
        for name in plain
        if grown_statistics[name].high - grown_statistics[name].low > 5 * (plain[name].high - plain[name].low)
    }
    assert grown
    assert serialised(stress(model, seed=1)) != serialised(stress(model, seed=2))
    assert serialised(stress(model, seed=1)) == serialised(stress(model, seed=1))


def test_smoothing_mends_the_stress(model: ir.Model) -> None:
    """INT8 of the stressed network is bad, and as good as the plain one's once it is smoothed."""

    def error(tensor: ir.Model, *, smoothing: bool) -> float:
        statistics = calibrate(serialised(tensor), [images()])
        if smoothing:
            tensor, statistics, _ = smooth(tensor, statistics)
        quantized = write_qdq(tensor, place(tensor), estimate_ranges(statistics, "minmax"))
        return relative_logit_error(logits(quantized, "int8"), logits(tensor))

    stressed = stress(model, factor=100, share=0.1)
    plain, bad, mended = (
        error(model, smoothing=False),
        error(stressed, smoothing=False),
        error(stressed, smoothing=True),
    )
    assert bad > 3 * plain
    assert mended < 1.5 * plain


def test_stress_says_what_it_cannot_do() -> None:
    model = network(TRANSFORMER)
    with pytest.raises(InputError, match=r"factor -1 and share 0.02"):
        stress(model, factor=-1)
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 4] image) => (float[1, 2] logits) <float[4, 2] w> { logits = MatMul (image, w) }
    """
    with pytest.raises(InputError, match="can be rescaled"):
        stress(network(text))
