"""The writer of Q/DQ, against the arithmetic done in numpy."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.qdq import BALANCED, SAME_AS, Placement, affine, write_qdq
from medfm_compress.compress.quantization.sum_preserving_rounding import round_keeping_sums
from medfm_compress.compress.quantization.weights import layers, quantize_weight
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.instruction_sets import multiplies_exactly

RANGES = {"image": (-1.0, 3.0), "hidden": (0.0, 5.0), "view": (0.0, 5.0)}
BOTH = Placement(activations=("image", "hidden", "view"), layers=("first", "second"), biases=True)
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 8, 8] image) => (float[1, 4] logits)
<float[6, 3, 3, 3] w0, float[6] b0, int64[2] flat = {1, -1}, float[216, 4] w1, float[4] b1>
{
  [first] conv = Conv (image, w0, b0)
  [relu] hidden = Relu (conv)
  [reshape] view = Reshape (hidden, flat)
  [second] product = MatMul (view, w1)
  [sum] logits = Add (product, b1)
}
"""


def network(scale: float = 1.0) -> ir.Model:
    model = onnx.parser.parse_model(TEXT)
    random = np.random.default_rng(0)
    for name, shape in {"w0": (6, 3, 3, 3), "b0": (6,), "w1": (216, 4), "b1": (4,)}.items():
        values = (random.standard_normal(shape) * scale).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return ir.serde.from_proto(onnx.shape_inference.infer_shapes(model))


def serialise(model: ir.Model) -> bytes:
    content: bytes = ir.serde.to_proto(model).SerializeToString(deterministic=True)
    onnx.checker.check_model(content, full_check=True)
    return content


def run(model: ir.Model, image: NDArray[np.float32], *, optimised: bool = False) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(serialise(model), options, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"image": image})[0]
    return result


def image(seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 3, (1, 3, 8, 8)).astype(np.float32)


def array(model: ir.Model, name: str) -> NDArray[np.float32]:
    constant = model.graph.initializers[name].const_value
    assert constant is not None
    result: NDArray[np.float32] = constant.numpy()
    return result


def rounded(x: NDArray[np.float32], low: float, high: float) -> NDArray[np.float64]:
    scale = (high - low) / 255
    zero = np.round(-low / scale)
    return (np.clip(np.rint(x / np.float32(scale)) + zero, 0, 255) - zero) * scale


def rounded_weight(w: NDArray[np.float32], axis: int) -> NDArray[np.float64]:
    scale = np.abs(w).max(axis=tuple(i for i in range(w.ndim) if i != axis), keepdims=True) / 127.0
    if w.ndim == 4:  # kernels keep their sums, see test_int8_rounding
        return round_keeping_sums((w / scale).reshape(*w.shape[:2], -1), 127).reshape(w.shape) * scale
    return np.rint(w / scale) * scale


def reference(model: ir.Model, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """The quantized network in float64: everything that is quantized is rounded here too, but for biases."""
    entering = rounded(x, *RANGES["image"])[0]
    windows = np.lib.stride_tricks.sliding_window_view(entering, (3, 3), axis=(1, 2))
    conv = np.einsum("chwij,ocij->ohw", windows, rounded_weight(array(model, "w0"), 0))
    hidden = np.maximum(conv + array(model, "b0")[:, None, None], 0)
    hidden = rounded(hidden.astype(np.float32), *RANGES["hidden"]).reshape(1, -1)
    return hidden @ rounded_weight(array(model, "w1"), 1) + array(model, "b1")


@pytest.mark.parametrize("optimised", [False, True])
def test_numbers_are_those_of_rounded_weights_and_activations(optimised: bool) -> None:
    if optimised and not multiplies_exactly(read_cpu()):
        pytest.skip("this CPU saturates where weights use all 8 bits")
    model = network(0.1)
    quantized = write_qdq(model, BOTH, RANGES)
    expected = reference(model, image())
    # one activation in 216 may round the other way, by one step of 5/255 times a weight of 0.3 at most
    np.testing.assert_allclose(run(quantized, image(), optimised=optimised), expected, atol=0.01)
    assert np.abs(run(model, image()) - expected).max() > 1e-4  # rounding does change something


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-7.5, 0.0), (0.2, 0.7), (-3.0, -1.0), (-1e-6, 1e6)]
)
@pytest.mark.parametrize("signed", [False, True])
def test_zero_is_exact_and_the_range_is_kept(low: float, high: float, signed: bool) -> None:
    scale, zero = affine(low, high, signed=signed)
    limits = np.iinfo(type(zero))
    assert limits.min <= int(zero) <= limits.max and scale > 0
    assert (not signed) or zero == 0
    values = np.linspace(min(low, 0), max(high, 0), 1001)
    stored = np.clip(np.rint(values / scale) + int(zero), limits.min, limits.max)
    np.testing.assert_allclose((stored - int(zero)) * scale, values, atol=float(scale) * 1.01)
    assert affine(low, high, signed=signed) == affine(min(low, 0), max(high, 0), signed=signed)


@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_a_range_of_width_zero_gets_a_safe_scale(value: float) -> None:
    assert affine(0.0, value) == (1.0, 0)


def test_constant_images_give_finite_numbers() -> None:
    quantized = write_qdq(network(), BOTH, {"image": (0, 0), "hidden": (0, 0), "view": (0, 0)})
    assert np.isfinite(run(quantized, np.zeros((1, 3, 8, 8), np.float32))).all()


@pytest.mark.parametrize("high", [np.inf, np.nan])
def test_a_range_that_is_not_finite_is_refused(high: float) -> None:
    with pytest.raises(InputError, match="cannot be quantized"):
        affine(-1.0, high)


def test_the_result_is_small_clean_and_reproducible() -> None:
    model = network()
    before = serialise(model)
    first, second = (serialise(write_qdq(model, BOTH, RANGES)) for _ in range(2))
    assert first == second
    assert serialise(model) == before
    quantized = onnx.load_from_string(first).graph
    kinds = {initializer.name: initializer.data_type for initializer in quantized.initializer}
    assert {"w0", "b0", "w1", "b1"}.isdisjoint(kinds)
    assert kinds["w0_quantized"] == kinds["w1_quantized"] == onnx.TensorProto.INT8
    assert kinds["first_bias_quantized"] == kinds["second_bias_quantized"] == onnx.TensorProto.INT32


def test_without_int32_biases_they_stay_in_float() -> None:
    quantized = write_qdq(network(), Placement(activations=("image",), layers=("first",)), RANGES)
    assert quantized.graph.initializers["b0"].dtype == ir.DataType.FLOAT


def test_a_float_node_reads_the_value_before_the_pair() -> None:
    placement = Placement(activations=("image", "hidden"), layers=("second",), floats=frozenset({"first"}))
    quantized = write_qdq(network(), placement, RANGES)
    nodes = {node.name: node for node in quantized.graph}
    assert nodes["first"].inputs[0] is quantized.graph.inputs[0]
    assert "image_Q" not in nodes  # nothing else needs it
    assert nodes["reshape"].inputs[0] is nodes["hidden_DQ"].outputs[0]


def test_a_value_takes_the_range_of_the_one_that_it_is_the_same_as_or_tied_to() -> None:
    model = network()
    view = next(node for node in model.graph if node.name == "reshape").outputs[0]
    view.metadata_props[SAME_AS] = "hidden"
    known = {"image": (-1.0, 3.0), "hidden": (0.0, 5.0)}
    same = write_qdq(model, Placement(activations=("view",), layers=("second",)), known)
    tied = write_qdq(network(), Placement(activations=("view",), layers=("second",), ties=(("view", "hidden"),)), known)
    assert array(same, "view_scale") == array(tied, "view_scale") == np.float32(5 / 255)


def test_symmetric_values_are_signed() -> None:
    placement = Placement(activations=("image", "hidden"), symmetric=frozenset({"image"}))
    quantized = write_qdq(network(), placement, RANGES)
    assert array(quantized, "image_zero").dtype == np.int8 and array(quantized, "image_zero") == 0
    assert array(quantized, "image_scale") == np.float32(3 / 127)
    assert array(quantized, "hidden_zero").dtype == np.uint8


@pytest.mark.parametrize(
    ("low", "high", "signed"),
    [
        (-1.0, 1.0, {"balanced", "all"}),
        (-1.0, 1.9, {"balanced", "all"}),
        (-1.9, 1.0, {"balanced", "all"}),
        (-1.0, 2.1, {"all"}),
        (-0.17, 6.0, {"all"}),
        (-0.01, 6.0, set()),  # rounds to a zero point of 0
        (-3.0, -1.0, {"all"}),  # widened to hold 0
        (0.0, 6.0, set()),  # its zero point is 0 as it is
        (0.5, 6.0, set()),
    ],
)
def test_a_range_decides_whether_a_value_needs_a_zero_point(low: float, high: float, signed: set[str]) -> None:
    assert not Placement().is_signed("x", low, high) and Placement(signed=True).is_signed("x", low, high)
    assert Placement(symmetric=frozenset("x")).is_signed("x", low, high)
    assert {which for which in ("balanced", "all") if Placement(others=which).is_signed("x", low, high)} == signed
    if "balanced" in signed:
        assert affine(low, high, signed=True).scale <= BALANCED * 255 / 254 * affine(low, high).scale


def test_without_zero_points_activations_keep_their_numbers() -> None:
    ranges = {"image": (-1.9, 3.0), "hidden": (0.0, 5.0), "view": (0.0, 5.0)}
    quantized = write_qdq(network(), msgspec.structs.replace(BOTH, others="balanced"), ranges)
    zeros = [array(quantized, f"{name}_zero") for name in ranges]
    assert [zero.dtype for zero in zeros] == [np.int8, np.uint8, np.uint8] and not any(zeros)
    asymmetric = run(write_qdq(network(), BOTH, ranges), image())
    assert 0 < np.abs(run(quantized, image()) - asymmetric).max() < 0.2 * np.abs(asymmetric).max()


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement(activations=("nothing",)), "no value 'nothing'"),
        (Placement(activations=("product",)), "no range is known for 'product'"),
        (Placement(layers=("relu",)), "'relu' is no layer"),
    ],
)
def test_names_that_do_not_fit_the_graph_are_refused(placement: Placement, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_qdq(network(), placement, RANGES)


def test_an_old_opset_is_refused() -> None:
    model = network()
    model.opset_imports[""] = 12
    with pytest.raises(InputError, match="opset 12"):
        write_qdq(model, BOTH, RANGES)


def test_seven_bit_weights_cannot_saturate_sixteen_bits() -> None:
    weight = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    values, scales = quantize_weight(weight, 0, reduced=True)
    assert np.abs(values).max() == 63 and 2 * 255 * 63 < 2**15
    np.testing.assert_allclose(values * scales[:, None], weight, atol=float(scales.max()) / 2 + 1e-6)
    quantized = write_qdq(network(), Placement(layers=("first", "second"), reduced=True), {})
    assert np.abs(array(quantized, "w0_quantized")).max() == 63


@pytest.mark.parametrize("tiny", [0.0, 1e-12, 1e-37])
def test_a_bias_survives_weights_that_are_next_to_nothing(tiny: float) -> None:
    """A pruned or dead channel: in steps of its own tiny scale the bias would not fit 32 bits."""
    model = network(0.1)
    weight = array(model, "w1").copy()
    weight[:, 2] *= tiny
    model.graph.initializers["w1"].const_value = ir.tensor(weight, name="w1")
    exact, quantized = run(model, image()), run(write_qdq(model, BOTH, RANGES), image(), optimised=True)
    np.testing.assert_allclose(quantized[0, 2], exact[0, 2], rtol=1e-3)


def test_layers_are_those_with_constant_weights() -> None:
    constant = {layer.name: (layer.axis, layer.bias and layer.bias.node.name) for layer in layers(network().graph)}
    assert constant == {"first": (0, "first"), "second": (1, "sum")}


def test_layers_that_share_a_weight_go_on_sharing_it() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 8] image) => (float[1, 8] logits) <float[8, 8] w, float[8] b>
    {
      [one] a = Gemm (image, w, b)
      [two] c = Gemm (a, w)
      [three] logits = Gemm <transB = 1> (c, w)
    }
    """
    proto = onnx.parser.parse_model(text)
    for name, shape in {"w": (8, 8), "b": (8,)}.items():
        values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    model = ir.serde.from_proto(onnx.shape_inference.infer_shapes(proto))
    placement = Placement(activations=("image", "a", "c"), layers=("one", "two", "three"), biases=True)
    quantized = write_qdq(model, placement, {"image": (-3, 3), "a": (-20, 20), "c": (-50, 50)})
    assert (
        sum(initializer.dtype == ir.DataType.INT8 for initializer in quantized.graph.initializers.values()) == 4
    )  # 2, zeros too
    x = np.random.default_rng(2).uniform(-3, 3, (1, 8)).astype(np.float32)
    exact = run(model, x)
    np.testing.assert_allclose(run(quantized, x), exact, atol=0.05 * np.abs(exact).max())


def test_names_that_the_graph_has_already_are_not_taken() -> None:
    model = network()
    for name in ("hidden_scale", "hidden_zero", "w0_quantized", "first_scale", "w0_scale"):
        taken = ir.Value(name=name, const_value=ir.tensor(np.ones(3, np.float32), name=name))
        model.graph.register_initializer(taken)
    expected = run(write_qdq(network(), BOTH, RANGES), image())
    assert np.array_equal(run(write_qdq(model, BOTH, RANGES), image()), expected)
