"""Bias correction: the mean of what each layer gives comes back to that of the float network."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.bias_correction import correct_biases
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.weights import layers, quantize_weight
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime

TEXT = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[1, 3, 16, 16] image) => (float[1, 5] logits)
<float[8, 3, 1, 1] w0, float[8] b0, float[8, 1, 3, 3] w1, float[8, 4, 1, 1] w2, int64[3] tokens = {1, 8, -1},
 float[8, 12] w3, float[12] b3, float[12, 12] w4, int64[1] one = {1}, float[5, 12] w5, float[5] b5>
{
  c0 = Conv (image, w0, b0)
  r0 = Relu (c0)
  c1 = Conv <group = 8> (r0, w1)
  r1 = Relu (c1)
  c2 = Conv <group = 2> (r1, w2)
  flat = Reshape (c2, tokens)
  x = Transpose <perm = [0, 2, 1]> (flat)
  m3 = MatMul (x, w3)
  a3 = Add (b3, m3)
  gelu = Gelu (a3)
  m4 = MatMul (gelu, w4)
  tanh = Tanh (m4)
  mean = ReduceMean <keepdims = 0> (tanh, one)
  logits = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (mean, w5, b5)
}
"""
LAYERS = {"c0": "c0", "c1": "c1", "c2": "c2", "m3": "a3", "m4": "m4", "logits": "logits"}  # and where its bias is in


@pytest.fixture(scope="module")
def model() -> ir.Model:
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    initializers = {tensor.name for tensor in proto.graph.initializer}
    for info in proto.graph.value_info:
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        if info.name not in initializers:
            values = random.standard_t(3, dims).astype(np.float32)  # heavy tails round badly
            proto.graph.initializer.append(onnx.numpy_helper.from_array(values, info.name))
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        node.name = str(node.output[0])
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(0, 1, (12, 3, 16, 16)).astype(np.float32)


def serialised(model: ir.Model) -> bytes:
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def means(model: ir.Model, name: str, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean of each channel of the value ``name`` over cases and positions."""
    proto = ir.to_proto(model)
    proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = import_onnxruntime().InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    values = np.stack([session.run([name], {"image": images[i : i + 1]})[0][0] for i in range(len(images))])
    values = np.moveaxis(values, 1 if name.startswith("c") else -1, 0)
    return values.reshape(len(values), -1).mean(axis=1, dtype=np.float64)


def with_rounded_weight(model: ir.Model, name: str, *, reduced: bool = False) -> ir.Model:
    """The network with the weight of one layer through INT8."""
    rounded = model.clone()
    layer = next(candidate for candidate in layers(rounded.graph) if candidate.name == name)
    weight = layer.weight.const_value.numpy()  # type: ignore[union-attr]
    values, scales = quantize_weight(weight, layer.axis, reduced=reduced)
    shape = [-1 if i == layer.axis else 1 for i in range(weight.ndim)]
    layer.weight.const_value = ir.tensor(values * scales.reshape(shape))
    return rounded


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("name", list(LAYERS))
def test_the_mean_error_of_each_layer_goes(
    model: ir.Model, images: NDArray[np.float32], name: str, reduced: bool
) -> None:
    statistics = calibrate(serialised(model), [images])
    others = [layer for layer in LAYERS if layer != name]
    corrected = correct_biases(model, statistics, exclude=others, reduced=reduced)
    expected = means(model, LAYERS[name], images)
    before = means(with_rounded_weight(model, name, reduced=reduced), LAYERS[name], images) - expected
    after = means(with_rounded_weight(corrected, name, reduced=reduced), LAYERS[name], images) - expected
    assert np.abs(before).max() > 1e-4
    assert np.abs(after).max() < 0.02 * np.abs(before).max()


def test_every_layer_gets_a_bias_and_values_keep_their_names(model: ir.Model, images: NDArray[np.float32]) -> None:
    before = serialised(model)
    corrected = correct_biases(model, calibrate(before, [images]))
    assert serialised(model) == before
    assert all(layer.bias is not None for layer in layers(corrected.graph))
    assert len(list(layers(corrected.graph))) == len(LAYERS)
    names = {value.name for node in model.graph for value in node.outputs}
    assert names <= {value.name for node in corrected.graph for value in node.outputs}
    assert corrected.graph.outputs[0].name == "logits"
    onnx.checker.check_model(ir.to_proto(corrected), full_check=True)


def test_it_does_not_apply_where_means_are_not_known(model: ir.Model, images: NDArray[np.float32]) -> None:
    assert serialised(correct_biases(model, {})) == serialised(correct_biases(model, {}, exclude=list(LAYERS)))
    np.testing.assert_array_equal(means(correct_biases(model, {}), "logits", images), means(model, "logits", images))


def test_shared_biases_stay_apart(model: ir.Model, images: NDArray[np.float32]) -> None:
    """Exporters keep equal biases once; the correction of one layer must not reach the other."""
    shared = model.clone()
    nodes = {node.name: node for node in shared.graph}
    nodes["c1"].resize_inputs(3)
    nodes["c1"].replace_input_with(2, nodes["c0"].inputs[2])
    corrected = correct_biases(shared, calibrate(serialised(shared), [images]), exclude=["c0"])
    nodes = {node.name: node for node in corrected.graph}
    original = {node.name: node for node in model.graph}["c0"].inputs[2]
    np.testing.assert_array_equal(nodes["c0"].inputs[2].const_value.numpy(), original.const_value.numpy())  # type: ignore[union-attr]
    assert nodes["c1"].inputs[2] is not nodes["c0"].inputs[2]
