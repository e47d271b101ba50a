"""Signed activations become unsigned ones without any value changing."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort

from medfm_compress.compress.quantization.unsigned_activations import make_unsigned

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 8] image) => (float[1, 8] logits)
<float s = {0.02}, int8 z = {-17}, int8 zero = {0}, uint8 middle = {120}, int8[8, 8] stored>
{
  [q] a = QuantizeLinear (image, s, z)
  [dq] b = DequantizeLinear (a, s, z)
  [dw] w = DequantizeLinear (stored, s, zero)
  [product] c = MatMul (b, w)
  [q2] d = QuantizeLinear (c, s, middle)
  [dq2] logits = DequantizeLinear (d, s, middle)
}
"""


def run(model, image):
    content = model.SerializeToString()
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]


def test_values_stay_and_only_signed_activations_change():
    proto = onnx.parser.parse_model(TEXT)
    stored = np.random.default_rng(0).integers(-127, 128, (8, 8)).astype(np.int8)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(stored, "stored"))
    del proto.graph.value_info[:]
    model = ir.from_proto(proto)
    assert make_unsigned(model) == 1 and make_unsigned(model) == 0
    changed = ir.to_proto(model)
    onnx.checker.check_model(changed, full_check=True)
    points = {
        node.name: node.input[2] for node in changed.graph.node if "QuantizeLinear" in node.op_type or node.input[2:]
    }
    assert points["q"] == points["dq"] != "z" and (points["dw"], points["q2"]) == ("zero", "middle")
    for image in np.random.default_rng(1).normal(0, 3, (20, 1, 8)).astype(np.float32):  # some of them saturate
        assert np.array_equal(run(proto, image), run(changed, image))
