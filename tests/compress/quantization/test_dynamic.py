"""Dynamic INT8 for ONNX Runtime, against the arithmetic done in numpy."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.dynamic import quantize_dynamic
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.sessions.instruction_sets import multiplies_exactly

REDUCED = not multiplies_exactly(read_cpu())  # 8-bit weights saturate here: 7 bits, as `quantize` ships them
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 4, 16] image) => (float[4, 5] logits)
<float[16, 24] w0, float[24] b0, float[24, 8] w1, int64[2] flat = {4, 8}, float[5, 8] w2, float[5] b2>
{
  [one] product = MatMul (image, w0)
  [sum] hidden = Add (product, b0)
  [act] gelu = Gelu (hidden)
  [two] second = MatMul (gelu, w1)
  [view] rows = Reshape (second, flat)
  [head] logits = Gemm <transB = 1> (rows, w2, b2)
}
"""


def network() -> ir.Model:
    model = onnx.parser.parse_model(TEXT)
    random = np.random.default_rng(0)
    for value in model.graph.value_info:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        weight = (random.standard_normal(shape) / np.sqrt(shape[0])).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, value.name))
    del model.graph.value_info[:]
    return ir.serde.from_proto(onnx.shape_inference.infer_shapes(model))


def serialise(model: ir.Model) -> bytes:
    content: bytes = ir.serde.to_proto(model).SerializeToString(deterministic=True)
    onnx.checker.check_model(content)
    return content


def run(model: ir.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(serialise(model), providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, {"image": x})[0]
    return result


def image(spread: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(1).standard_normal((1, 4, 16)) * spread).astype(np.float32)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3])
def test_any_range_of_inputs_is_met(spread: float) -> None:
    model = network()
    expected, logits = run(model, image(spread)), run(quantize_dynamic(model, reduced=REDUCED), image(spread))
    limit = 0.04 if REDUCED else 0.03
    assert 0 < np.linalg.norm(logits - expected) < limit * np.linalg.norm(expected)


def test_each_layer_with_its_bias_becomes_one_operator_of_the_same_name_and_result() -> None:
    model = network()
    before = serialise(model)
    quantized = quantize_dynamic(model)
    nodes = [(node.op_type, node.name, node.outputs[0].name) for node in quantized.graph]
    assert nodes == [
        ("DynamicQuantizeMatMul", "one", "hidden"),
        ("Gelu", "act", "gelu"),
        ("DynamicQuantizeMatMul", "two", "second"),
        ("Reshape", "view", "rows"),
        ("DynamicQuantizeMatMul", "head", "logits"),
    ]
    kinds = {name: value.dtype for name, value in quantized.graph.initializers.items()}
    assert {"w0", "w1", "w2"}.isdisjoint(kinds) and {"b0", "b2"} <= set(kinds)
    assert sum(kind == ir.DataType.INT8 for kind in kinds.values()) == 3
    assert serialise(model) == before
    assert serialise(quantized) == serialise(quantize_dynamic(model))


def test_the_first_layer_is_that_of_rounded_weights_and_inputs() -> None:
    model = network()
    weight = model.graph.initializers["w0"].const_value
    bias = model.graph.initializers["b0"].const_value
    assert weight is not None and bias is not None
    w, x = weight.numpy(), image()[0]
    w_step = np.abs(w).max(axis=0) / (63 if REDUCED else 127)
    x_step = (max(x.max(), 0) - min(x.min(), 0)) / 255
    zero = np.rint(-min(x.min(), 0) / x_step)
    rounded = (np.clip(np.rint(x / x_step) + zero, 0, 255) - zero) * x_step
    expected = rounded @ (np.rint(w / w_step) * w_step) + bias.numpy()
    quantized = quantize_dynamic(model, reduced=REDUCED)
    quantized.graph.outputs.append(next(node for node in quantized.graph if node.name == "one").outputs[0])
    session = ort.InferenceSession(serialise(quantized), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["hidden"], {"image": image()})[0][0], expected, atol=1e-4)


def test_excluded_layers_stay_in_float() -> None:
    quantized = quantize_dynamic(network(), ("one", "head"))
    assert [node.op_type for node in quantized.graph] == [
        "MatMul",
        "Add",
        "Gelu",
        "DynamicQuantizeMatMul",
        "Reshape",
        "Gemm",
    ]


def test_seven_bit_weights() -> None:
    quantized = quantize_dynamic(network(), reduced=True)
    stored = [
        weights.const_value for weights in quantized.graph.initializers.values() if weights.dtype == ir.DataType.INT8
    ]
    assert stored and all(weights is not None and np.abs(weights.numpy()).max() == 63 for weights in stored)


def test_a_network_without_products_is_left_as_it_is() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 3, 8, 8] image) => (float[1, 3, 8, 8] logits) { logits = Relu (image) }"""
    model = ir.serde.from_proto(onnx.parser.parse_model(text))
    assert serialise(quantize_dynamic(model)) == serialise(model)
