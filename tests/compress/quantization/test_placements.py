"""Where each backend gets its Q/DQ, and what the backend then really runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization import placement_onnxruntime, placement_openvino, placement_tensorrt
from medfm_compress.compress.quantization.qdq import Placement, write_qdq
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.sessions.instruction_sets import multiplies_exactly

REDUCED = not multiplies_exactly(read_cpu())  # 8-bit weights saturate here: 7 bits, as `quantize` ships them
RESIDUAL = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 16, 16] image) => (float[1, 5] logits)
<float[8, 3, 3, 3] w0, float[8] b0, float[8, 8, 3, 3] w1, float[8] b1, int64[2] flat = {1, -1}, float[5, 8] w2,
 float[5] b2>
{
  [stem] c0 = Conv <pads = [1, 1, 1, 1]> (image, w0, b0)
  [relu0] r0 = Relu (c0)
  [pool] p0 = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r0)
  [body] c1 = Conv <pads = [1, 1, 1, 1]> (p0, w1, b1)
  [sum] s1 = Add (c1, p0)
  [relu1] r1 = Relu (s1)
  [body2] c2 = Conv <pads = [1, 1, 1, 1]> (r1, w1, b1)
  [silu] gate = Sigmoid (c2)
  [gated] m2 = Mul (c2, gate)
  [mean] g = GlobalAveragePool (m2)
  [flatten] f = Reshape (g, flat)
  [head] logits = Gemm <transB = 1> (f, w2, b2)
}
"""
ATTENTION = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 10, 16] image) => (float[1, 10, 16] logits)
<float[16] gain, float[16] shift, float[16, 16] wq, float[16] bq, float[16, 16] wk, float[16] bk, float[16, 16] wv,
 float[16] bv, float[16, 16] wo, float[16] bo, int64[4] heads = {1, 10, 2, 8}, int64[3] tokens = {1, 10, 16}>
{
  [norm] x = LayerNormalization <axis = -1> (image, gain, shift)
  [query] q0 = MatMul (x, wq)
  [query_bias] q1 = Add (q0, bq)
  [key] k0 = MatMul (x, wk)
  [key_bias] k1 = Add (k0, bk)
  [value] v0 = MatMul (x, wv)
  [value_bias] v1 = Add (v0, bv)
  [q_view] q2 = Reshape (q1, heads)
  [q_turn] q = Transpose <perm = [0, 2, 1, 3]> (q2)
  [k_view] k2 = Reshape (k1, heads)
  [k_turn] k = Transpose <perm = [0, 2, 3, 1]> (k2)
  [v_view] v2 = Reshape (v1, heads)
  [v_turn] v = Transpose <perm = [0, 2, 1, 3]> (v2)
  [qk] scores = MatMul (q, k)
  [softmax] p = Softmax <axis = -1> (scores)
  [pv] o = MatMul (p, v)
  [o_turn] o1 = Transpose <perm = [0, 2, 1, 3]> (o)
  [o_view] o2 = Reshape (o1, tokens)
  [out] y0 = MatMul (o2, wo)
  [out_bias] y1 = Add (y0, bo)
  [residual] logits = Add (image, y1)
}
"""
PLACES: dict[str, Callable[..., Placement]] = {
    "openvino": placement_openvino.place,
    "onnxruntime": placement_onnxruntime.place,
    "tensorrt": placement_tensorrt.place,
}


def network(text: str) -> ir.Model:
    """Random weights for all that the text declares and does not fill."""
    model = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    for value in model.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        weight = (random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, value.name))
    del model.graph.value_info[:]
    return ir.serde.from_proto(onnx.shape_inference.infer_shapes(model))


def serialise(model: ir.Model) -> bytes:
    content: bytes = ir.serde.to_proto(model).SerializeToString(deterministic=True)
    onnx.checker.check_model(content)
    return content


def session(content: bytes, optimised: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def image(model: ir.Model, seed: int = 1) -> NDArray[np.float32]:
    shape = tuple(int(size) for size in model.graph.inputs[0].shape or ())
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ranges(model: ir.Model) -> dict[str, tuple[float, float]]:
    """Exact extremes of every value on the image."""
    every = model.clone()
    results = [value for node in every.graph for value in node.outputs if value not in every.graph.outputs]
    every.graph.outputs.extend(results)
    opened = session(serialise(every))
    names = [output.name for output in opened.get_outputs()]
    results = dict(zip(names, opened.run(None, {"image": image(model)}), strict=True))
    return {name: (float(x.min()), float(x.max())) for name, x in {**results, "image": image(model)}.items()}


def operators(model: ir.Model, folder: Path) -> Counter[str]:
    """What ONNX Runtime runs after its own optimisations."""
    session(serialise(model), folder / "optimised.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@pytest.mark.parametrize("text", [RESIDUAL, ATTENTION], ids=["residual", "attention"])
@pytest.mark.parametrize("backend", PLACES)
def test_numbers_stay_those_of_the_float_network(text: str, backend: str) -> None:
    model = network(text)
    quantized = write_qdq(model, PLACES[backend](model, reduced=REDUCED), ranges(model))
    expected, results = (session(serialise(m)).run(None, {"image": image(model)})[0] for m in (model, quantized))
    assert np.linalg.norm(results - expected) < 0.04 * np.linalg.norm(expected)
    assert not np.array_equal(results, expected)


@pytest.mark.parametrize("backend", PLACES)
def test_excluded_layers_keep_their_float_weights_and_inputs(backend: str) -> None:
    model = network(RESIDUAL)
    quantized = write_qdq(model, PLACES[backend](model, ("stem", "head")), ranges(model))
    nodes = {node.name: node for node in quantized.graph}
    assert nodes["stem"].inputs[0] is quantized.graph.inputs[0]
    assert "image_Q" not in nodes and "f_Q" not in nodes
    assert quantized.graph.initializers["w0"].dtype == quantized.graph.initializers["w2"].dtype == ir.DataType.FLOAT
    assert "w1_quantized" in quantized.graph.initializers


@pytest.mark.parametrize("backend", PLACES)
def test_a_network_without_layers_gets_nothing(backend: str) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 8] image) => (float[1, 8] logits) { half = Relu (image) logits = Add (half, image) }"""
    model = network(text)
    placement = PLACES[backend](model)
    assert placement.activations == placement.layers == ()
    assert serialise(write_qdq(model, placement, {})) == serialise(model)


@pytest.mark.parametrize("backend", PLACES)
def test_seven_bit_weights_are_passed_on(backend: str) -> None:
    assert PLACES[backend](network(RESIDUAL), reduced=True).reduced


def test_onnxruntime_runs_the_convolutions_and_the_residual_sum_in_bytes(tmp_path: Path) -> None:
    model = network(RESIDUAL)
    ran = operators(write_qdq(model, placement_onnxruntime.place(model), ranges(model)), tmp_path)
    assert ran["QLinearConv"] == 3 and ran["QLinearAdd"] == 1 and ran["QGemm"] == 1
    assert ran["Conv"] == ran["Add"] == ran["Relu"] == ran["MaxPool"] == 0  # ReLU is in the zero point
    assert ran["DequantizeLinear"] <= 2  # before the SiLU, which ONNX Runtime sees as two operators


def test_onnxruntime_sums_stay_in_float_when_asked(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 8, 8, 8] image) => (float[1, 8, 8, 8] logits) <float[8, 8, 3, 3] w>
    {
      [one] a = Conv <pads = [1, 1, 1, 1]> (image, w)
      [sum] s = Add (a, image)
      [two] b = Conv <pads = [1, 1, 1, 1]> (s, w)
      [last] t = Add (b, s)
      [act] logits = Gelu (t)
    }"""
    model = network(text)
    for sums, added in {True: 1, False: 0}.items():
        placement = placement_onnxruntime.place(model, sums=sums)
        ran = operators(write_qdq(model, placement, ranges(model)), tmp_path)
        assert ran["QLinearAdd"] == added and ran["Add"] == 2 - added and ran["QLinearConv"] == 2


def test_onnxruntime_parts_of_a_concat_share_a_range_when_asked(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 8, 8, 8] image) => (float[1, 8, 8, 8] logits)
    <float[8, 8, 3, 3] w0, float[8, 8, 3, 3] w1, float[8, 16, 1, 1] w2, float[8, 24, 1, 1] w3>
    {
      [one] a = Conv <pads = [1, 1, 1, 1]> (image, w0)
      [relu] r = Relu (a)
      [two] b = Conv <pads = [1, 1, 1, 1]> (r, w1)
      [join] c = Concat <axis = 1> (r, b)
      [three] d = Conv (c, w2)
      [again] e = Concat <axis = 1> (r, b, d)
      [four] f = Conv (e, w3)
      [act] logits = Gelu (f)
    }"""
    model = network(text)
    quantized = write_qdq(model, placement_onnxruntime.place(model, joined=True), ranges(model))
    scales = {name: quantized.graph.initializers[f"{name}_scale"].const_value for name in "rbcde"}
    results = {name: float(scale.numpy()) for name, scale in scales.items() if scale is not None}
    assert results["b"] == results["c"] == results["d"] == results["e"] != results["r"]  # the ReLU keeps its zero point
    ran = operators(quantized, tmp_path)
    assert ran["QLinearConv"] == 4 and ran["QLinearConcat"] == 2 and ran["Relu"] == 0
    apart = placement_onnxruntime.place(model)
    assert ("b", "e") in placement_onnxruntime.place(model, joined=True).ties and not apart.ties


SQUEEZE = """<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 8, 8, 8] image) => (float[1, 8, 8, 8] logits)
<float[8, 8, 3, 3] w0, float[8, 8, 1, 1] w1, float[8, 8, 1, 1] w2, float[8, 8, 1, 1] w3>
{
  [one] a = Conv <pads = [1, 1, 1, 1]> (image, w0)
  [act] r = ACTIVATION (a)
  [mean] m = GlobalAveragePool (r)
  [reduce] s = Conv (m, w1)
  [relu] t = Relu (s)
  [expand] e = Conv (t, w2)
  [gate] g = Sigmoid (e)
  [gated] x = Mul (r, g)
  [two] b = Conv (x, w3)
  [last] logits = Gelu (b)
}"""


def test_onnxruntime_gates_an_image_in_bytes_when_asked(tmp_path: Path) -> None:
    model = network(SQUEEZE.replace("ACTIVATION", "Relu"))
    for gates, in_bytes in {True: 1, False: 0}.items():
        placement = placement_onnxruntime.place(model, gates=gates)
        ran = operators(write_qdq(model, placement, ranges(model)), tmp_path)
        assert ran["QLinearMul"] == in_bytes and ran["Mul"] == 1 - in_bytes and ran["QLinearConv"] == 4


def test_onnxruntime_gates_in_float_what_is_in_float() -> None:
    model = network(SQUEEZE.replace("ACTIVATION", "Gelu"))
    assert placement_onnxruntime.place(model, gates=True) == placement_onnxruntime.place(model)


def test_onnxruntime_leaves_a_convolution_that_gives_the_output_in_float() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 8, 8, 8] image) => (float[1, 8, 8, 8] logits) <float[8, 8, 3, 3] w>
    { [one] a = Conv <pads = [1, 1, 1, 1]> (image, w) [two] logits = Conv <pads = [1, 1, 1, 1]> (a, w) }"""
    placement = placement_onnxruntime.place(network(text))
    assert placement.layers == ("one",) and set(placement.activations) == {"image", "a"}


def test_onnxruntime_embeds_patches_in_float() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 3, 16, 16] image) => (float[1, 8, sh, sw] logits)
    <float[8, 3, KERNEL, KERNEL] w0, float[8, 8, 1, 1] w1>
    {
      [patches] a = Conv <kernel_shape = [KERNEL, KERNEL], strides = [4, 4]> (image, w0)
      [act] g = Gelu (a)
      [two] b = Conv (g, w1)
      [last] logits = Gelu (b)
    }"""
    assert placement_onnxruntime.place(network(text.replace("KERNEL", "4"))).layers == ("two",)
    assert placement_onnxruntime.place(network(text.replace("KERNEL", "5"))).layers == ("patches", "two")


def test_onnxruntime_float_operators_read_floats_where_there_are_any(tmp_path: Path) -> None:
    """The second layer reads the SiLU's result in bytes; the sum, which stays in float, need not."""
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 8, 8, 8] image) => (float[1, 8, 8, 8] logits) <float[8, 8, 3, 3] w>
    {
      [one] a = Conv <pads = [1, 1, 1, 1]> (image, w)
      [gate] g = Gelu (a)
      [two] b = Conv <pads = [1, 1, 1, 1]> (g, w)
      [sum] logits = Add (b, g)
    }"""
    model = network(text)
    quantized = write_qdq(model, placement_onnxruntime.place(model), ranges(model))
    nodes = {node.name: node for node in quantized.graph}
    assert nodes["sum"].inputs[1] is nodes["gate"].outputs[0]
    assert nodes["two"].inputs[0] is nodes["g_DQ"].outputs[0]
    assert operators(quantized, tmp_path)["QLinearConv"] == 2


@pytest.mark.parametrize("probabilities", [False, True])
def test_onnxruntime_runs_attention_in_bytes_but_for_softmax_and_the_residual(
    tmp_path: Path, probabilities: bool
) -> None:
    model = network(ATTENTION)
    placement = placement_onnxruntime.place(model, products="all" if probabilities else "scores")
    ran = operators(write_qdq(model, placement, ranges(model)), tmp_path)
    assert ran["QGemm"] == 4 and ran["QLinearMatMul"] + ran["MatMulIntegerToFloat"] == (2 if probabilities else 1)
    assert ran["MatMul"] + ran["FusedMatMul"] == (0 if probabilities else 1)
    assert ran["Gemm"] == 0
    assert ran["Add"] == ran["Softmax"] == ran["LayerNormalization"] == 1


def test_onnxruntime_keeps_attention_in_float_when_asked(tmp_path: Path) -> None:
    model = network(ATTENTION)
    placement = placement_onnxruntime.place(model, products="none")
    ran = operators(write_qdq(model, placement, ranges(model)), tmp_path)
    assert ran["QGemm"] == 4 and ran["MatMul"] + ran["FusedMatMul"] == 2


def test_what_moves_numbers_keeps_their_range_in_onnxruntime() -> None:
    model = network(RESIDUAL)
    quantized = write_qdq(model, placement_onnxruntime.place(model), ranges(model))
    scales = {name: quantized.graph.initializers[f"{name}_scale"].const_value for name in ("r0", "p0")}
    assert scales["r0"] is not None and scales["p0"] is not None
    assert scales["r0"].numpy() == scales["p0"].numpy()


def test_openvino_gets_inputs_of_layers_above_what_moves_numbers() -> None:
    placement = placement_openvino.place(network(RESIDUAL))
    assert set(placement.activations) == {"image", "r0", "r1", "g"}  # g: no farther, a mean is no mere move
    assert placement.layers == ("stem", "body", "body2", "head")
    assert not placement.biases


def test_openvino_sums_read_bytes_or_floats_as_asked() -> None:
    model = network(RESIDUAL)
    assert {"c1", "r0"} <= set(placement_openvino.place(model, sums="bytes").activations)
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 8, 8, 8] image) => (float[1, 8, 8, 8] logits) <float[8, 8, 3, 3] w>
    { [act] x = Relu (image) [one] a = Conv <pads = [1, 1, 1, 1]> (x, w) [sum] logits = Add (a, x) }"""
    model = network(text)
    for sums, read in {"float": ["a", "x"], "shared": ["a", "x_dequantized"], "bytes": ["a_dequantized"]}.items():
        placement = placement_openvino.place(model, sums=sums)  # type: ignore[arg-type]
        nodes = {node.name: node for node in write_qdq(model, placement, ranges(model)).graph}
        assert [value.name for value in nodes["sum"].inputs if value is not None][: len(read)] == read


def test_openvino_attention_has_no_zero_points_and_probabilities_start_at_zero() -> None:
    model = network(ATTENTION)
    scores = placement_openvino.place(model)
    assert {"q", "k"} <= set(scores.activations) and {"v", "p"}.isdisjoint(scores.activations)
    placement = placement_openvino.place(model, probabilities=True)
    assert {"q", "k", "v", "p"} <= set(placement.activations)
    assert scores.symmetric == {"q", "k"} and placement.symmetric == {"q", "k", "v"}
    without = placement_openvino.place(model, attention=False)
    assert set(without.activations) == {"x", "o1"} or set(without.activations) == {"x", "o2"}


@pytest.mark.parametrize(("text", "fused"), [(RESIDUAL, "Convolution"), (ATTENTION, "FullyConnected")])
def test_openvino_runs_every_layer_in_bytes(text: str, fused: str) -> None:
    openvino = pytest.importorskip("openvino")
    model = network(text)
    content = serialise(write_qdq(model, placement_openvino.place(model, reduced=REDUCED), ranges(model)))
    core = openvino.Core()
    if not {"avx2", "avx512", "FP32", "INT8"} & set(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")):
        pytest.skip("this CPU has no INT8 kernels")
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    infos = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kinds = [(info["layerType"].astype(str), info["runtimePrecision"].astype(str)) for info in infos]
    precisions = {precision for kind, precision in kinds if kind == fused}
    assert precisions and precisions <= {"u8", "i8"}
    expected = session(serialise(model)).run(None, {"image": image(model)})[0]
    results = compiled({"image": image(model)})[0]
    assert np.linalg.norm(results - expected) < 0.05 * np.linalg.norm(expected)


def test_tensorrt_is_symmetric_and_quantizes_only_the_residual_branch_of_a_sum() -> None:
    model = network(RESIDUAL)
    placement = placement_tensorrt.place(model)
    assert {"image", "p0", "r1", "f"} == set(placement.activations)  # c1, which the sum fuses with, is not there
    quantized = write_qdq(model, placement, ranges(model))
    zeros = [output for name, output in quantized.graph.initializers.items() if name.endswith("_zero")]
    assert zeros
    for zero in zeros:
        assert zero.const_value is not None and zero.dtype == ir.DataType.INT8
        assert not zero.const_value.numpy().any()
    assert quantized.graph.initializers["b0"].dtype == ir.DataType.FLOAT


def test_tensorrt_attention_is_quantized_when_asked() -> None:
    model = network(ATTENTION)
    assert {"q", "k", "v", "p"} <= set(placement_tensorrt.place(model, attention=True).activations)
    assert {"q", "k", "v", "p"}.isdisjoint(placement_tensorrt.place(model).activations)


def test_openvino_does_not_turn_bytes_where_floats_are_turned_faster() -> None:
    """A pair behind a Transpose is moved above it by OpenVINO; one behind the Reshape that follows stays."""
    model = network(ATTENTION)
    assert "o2" in placement_openvino.place(model).activations
    assert "o1" not in placement_openvino.place(model).activations


DECODER = """<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 8, 16, 16] image) => (float[1, 8, 16, 16] logits)
<float[8, 8, 3, 3] w0, float[8, 8, 3, 3] w1, float[8, 16, 3, 3] w2, float[4] twice = {1.0, 1.0, 2.0, 2.0}>
{
  [enter] a = Conv <pads = [1, 1, 1, 1]> (image, w0)
  [relu0] skip = Relu (a)
  [down] b = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (skip, w1)
  [relu1] deep = Relu (b)
  [up] wide = Resize <mode = "MODE", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">
    (deep, , twice)
  [join] both = Concat <axis = 1> (wide, skip)
  [merge] c = Conv <pads = [1, 1, 1, 1]> (both, w2)
  [act] logits = Gelu (c)
}"""


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_onnxruntime_resizes_and_joins_bytes(tmp_path: Path, mode: str) -> None:
    model = network(DECODER.replace("MODE", mode))
    placement = placement_onnxruntime.place(model)
    assert dict(placement.ties)["wide"] == "deep", "a pixel between others lies in their range"
    ran = operators(write_qdq(model, placement, ranges(model)), tmp_path)
    assert ran["QLinearConv"] == 3 and ran["QLinearConcat"] == 1 and ran["Resize"] == 1
    pairs = {"nearest": 1, "linear": 2}[mode]  # at the two ends; what computes between pixels does it in floats
    assert ran["DequantizeLinear"] == pairs == ran["QuantizeLinear"]


def test_openvino_rounds_above_a_resize_that_only_moves_numbers() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 8, 8, 8] image) => (float[1, 8, 16, 16] logits)
    <float[8, 8, 3, 3] w0, float[8, 8, 3, 3] w1, float[4] twice = {1.0, 1.0, 2.0, 2.0}>
    {
      [one] a = Conv <pads = [1, 1, 1, 1]> (image, w0)
      [up] b = Resize <mode = "MODE", coordinate_transformation_mode = "asymmetric"> (a, , twice)
      [two] logits = Conv <pads = [1, 1, 1, 1]> (b, w1)
    }"""
    for mode, place in {"nearest": "a", "linear": "b"}.items():
        model = network(text.replace("MODE", mode))
        assert set(placement_openvino.place(model).activations) == {"image", place}
