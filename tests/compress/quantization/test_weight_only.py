"""Weights in 8 and 4 bits: how small, how near, and that both engines run them."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.weight_only import quantize_blocks, weight_only
from medfm_compress.runtime.errors import InputError

Engine = Literal["openvino", "onnxruntime"]
BACKENDS: tuple[Engine, ...] = ("openvino", "onnxruntime")
TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 16, 16] image) => (float[1, 5] logits)
<float[64, 3, 4, 4] w0, float[64] b0, int64[3] tokens = {1, 64, 16}, float[64, 256] w1, float[256] b1,
 float[256, 64] w2, int64[1] axis = {1}, float[5, 64] w3, float[5] b3>
{
  [patches] c = Conv <strides = [4, 4]> (image, w0, b0)
  [view] v = Reshape (c, tokens)
  [turn] t = Transpose <perm = [0, 2, 1]> (v)
  [one] p = MatMul (t, w1)
  [sum] h = Add (p, b1)
  [act] g = Gelu (h)
  [two] q = MatMul (g, w2)
  [mean] m = ReduceMean <keepdims = 0> (q, axis)
  [head] logits = Gemm <transB = 1> (m, w3, b3)
}
"""


def network(text: str = TEXT) -> ir.Model:
    model = onnx.parser.parse_model(text)
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


def image() -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)


def run(content: bytes, backend: Engine) -> NDArray[np.float32]:
    if backend == "onnxruntime":
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        found: NDArray[np.float32] = session.run(None, {"image": image()})[0]
        return found
    core = pytest.importorskip("openvino").Core()
    compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result: NDArray[np.float32] = compiled({"image": image()})[0]
    return result


def constant_bytes(model: ir.Model) -> int:
    """Bytes of all constants of the graph."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("bits", "error", "share"), [(8, 0.02, 0.28), (4, 0.2, 0.20)])
def test_both_engines_run_it_small_and_near(backend: Engine, bits: int, error: float, share: float) -> None:
    model = network()
    before = serialise(model)
    compressed = weight_only(model, bits, backend)
    content = serialise(compressed)
    expected = run(before, "onnxruntime")
    found = run(content, backend)
    assert 0 < np.linalg.norm(found - expected) < error * np.linalg.norm(expected)
    assert constant_bytes(compressed) < share * constant_bytes(model)
    assert len(content) < (share + 0.04) * len(before)
    assert serialise(model) == before
    assert content == serialise(weight_only(model, bits, backend))


def test_blocks_of_four_bits_are_within_half_a_step() -> None:
    weight = np.random.default_rng(0).standard_normal((96, 5)).astype(np.float32)
    weight[:32, 1] = 0
    values, scales = quantize_blocks(weight)
    assert values.shape == (96, 5) and scales.shape == (3, 5) and np.abs(values).max() == 7
    restored = values * np.repeat(scales, 32, axis=0)
    assert (np.abs(restored - weight) <= np.repeat(scales, 32, axis=0) / 2 + 1e-6).all()
    assert not restored[:32, 1].any()


def test_each_engine_gets_its_own_form_of_four_bits() -> None:
    model = network()
    for_openvino = weight_only(model, 4, "openvino")
    assert for_openvino.opset_imports[""] == 21
    blocked = [node for node in for_openvino.graph if "block_size" in node.attributes]
    assert len(blocked) == 3 and all(node.op_type == "DequantizeLinear" for node in blocked)
    names = [node.name for node in weight_only(model, 4, "onnxruntime").graph if node.op_type == "MatMulNBits"]
    assert names == ["one", "two", "head"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_product_without_whole_blocks_has_eight_bits(backend: Engine) -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 20] image) => (float[1, 8] logits) <float[20, 8] w> { [one] logits = MatMul (image, w) }"""
    compressed = weight_only(network(text), 4, backend)
    assert compressed.graph.initializers["w_quantized"].dtype == ir.DataType.INT8


def test_a_network_without_layers_is_left_as_it_is() -> None:
    text = """<ir_version: 10, opset_import: ["" : 20]>
    net (float[1, 8] image) => (float[1, 8] logits) { logits = Relu (image) }"""
    model = network(text)
    for bits in (4, 8):
        assert serialise(weight_only(model, bits, "openvino")) == serialise(model)


def test_other_numbers_of_bits_are_refused() -> None:
    with pytest.raises(InputError, match="2 bits"):
        weight_only(network(), 2, "openvino")
