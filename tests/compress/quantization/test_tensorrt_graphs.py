"""One FP32 graph in every precision that TensorRT builds: what is quantized, in which types, how near it stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.tensorrt_graphs import PRECISIONS, write_precision
from medfm_compress.export.passes.read import read_graph
from medfm_compress.runtime.errors import InputError

NETWORK = """
<ir_version: 9, opset_import: ["" : 20]>
net (float[1, 3, 8, 8] image) => (float[1, 5] logits)
<float[16, 3, 3, 3] w0, float[16] b0, int64[2] flat = {1, -1}, float[16, 5] w1, float[5] b1>
{
  [stem] c0 = Conv <pads = [1, 1, 1, 1]> (image, w0, b0)
  [relu] r0 = Relu (c0)
  [mean] g = GlobalAveragePool (r0)
  [flatten] f = Reshape (g, flat)
  [head] h = MatMul (f, w1)
  [head_bias] logits = Add (h, b1)
}
"""


@pytest.fixture(scope="module")
def network():
    model = onnx.parser.parse_model(NETWORK)
    random = np.random.default_rng(0)
    filled = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.value_info:
        if value.name not in filled:
            shape = [size.dim_value for size in value.type.tensor_type.shape.dim]
            array = random.normal(size=shape).astype(np.float32)
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, value.name))
    content = model.SerializeToString()
    images = random.normal(size=(8, 3, 8, 8)).astype(np.float32)
    return content, images, calibrate(content, [images])


def logits(content: bytes, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"image": images[i : i + 1]})[0] for i in range(len(images))])


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if name != "bf16"])  # no CPU kernels
def test_the_result_is_near(network, precision):
    content, images, statistics = network
    written = write_precision(read_graph(content), precision, statistics)
    actual = logits(ir.to_proto(written.model).SerializeToString(), images)
    expected = logits(content, images)
    error = np.abs(actual - expected).max() / np.abs(expected).max()
    assert error < {"fp32": 1e-6, "fp16": 2e-3}.get(precision, 0.06)
    assert (error > 0) == (precision != "fp32")


@pytest.mark.parametrize(("precision", "stored"), [("int8", "INT8"), ("fp8-fp16", "FLOAT8E4M3FN")])
def test_products_read_symmetric_pairs_with_scales_a_channel(network, precision, stored):
    content, _, statistics = network
    graph = write_precision(read_graph(content), precision, statistics).model.graph
    for name in ("stem", "head"):
        node = next(node for node in graph if node.name == name)
        activation, weight = (value.producer() for value in node.inputs[:2])
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert activation.inputs[0].producer().op_type == "QuantizeLinear"
        assert weight.inputs[0].const_value.dtype.name == stored  # constants stand directly before it
        assert weight.inputs[1].shape.numpy()[0] == (16 if name == "stem" else 5)
        assert activation.inputs[1].shape.rank() == 0
        for pair in (activation, weight):
            assert not pair.inputs[2].const_value.numpy().astype(np.float32).any()
            expected = "FLOAT16" if precision.endswith("fp16") else "FLOAT"
            assert pair.inputs[1].const_value.dtype.name == expected


def test_what_is_kept_is_neither_quantized_nor_half(network):
    content, _, statistics = network
    graph = write_precision(read_graph(content), "int8-fp16", statistics, keep=["stem"]).model.graph
    stem = next(node for node in graph if node.name == "stem")
    assert stem.inputs[0] is graph.inputs[0]
    assert stem.inputs[1].const_value.dtype.name == "FLOAT"
    assert stem.outputs[0].dtype.name == "FLOAT"


def test_an_unknown_precision_is_refused(network):
    with pytest.raises(InputError, match="int4"):
        write_precision(read_graph(network[0]), "int4", network[2])


def test_pairs_need_ranges(network):
    with pytest.raises(InputError, match="calibrate"):
        write_precision(read_graph(network[0]), "fp8")


def test_fp8_needs_its_opset(network):
    model = read_graph(network[0])
    model.opset_imports[""] = 17
    with pytest.raises(InputError, match="19"):
        write_precision(model, "fp8", network[2])
