"""FP16 and BF16 written into a graph: every tensor typed, islands in FP32, numbers that do not fit, Q/DQ scales."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from medfm_compress.export.passes.half_precision import float_nodes, to_half
from medfm_compress.runtime.errors import InputError

TYPES = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}
SIGNATURE = "(float[1, 4] image) => (float[1, 4] logits)"
CHAIN = "[scaled] x = Mul(image, a) [soft] y = Softmax(x) [shifted] logits = Add(y, b)"


@pytest.fixture
def chain(graphs):
    return graphs.read(graphs.build(SIGNATURE, CHAIN, a=graphs.normal(4), b=graphs.normal(4)))


def types(model: ir.Model) -> dict[str, int]:
    """Value name → type by ONNX's own inference, which fails where a node mixes types."""
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(proto, strict_mode=True, check_type=True).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_every_tensor_is_typed_and_the_ends_stay_float32(chain, precision):
    half, record = to_half(chain, precision)
    known = types(half)
    assert known["image"] == known["logits"] == onnx.TensorProto.FLOAT
    assert known["x"] == known["y"] == TYPES[precision]
    assert (record.nodes, record.kept, record.casts) == (3, (), 2)
    assert {node.op_type for node in chain.graph} == {"Mul", "Softmax", "Add"}  # the input is left as it is
    assert types(chain)["x"] == onnx.TensorProto.FLOAT


def test_an_island_computes_in_float32(chain):
    half, record = to_half(chain, "fp16", keep=["soft"])
    known = types(half)
    assert record.kept == ("soft",)
    assert known["x"] == onnx.TensorProto.FLOAT16
    assert known["y"] == onnx.TensorProto.FLOAT
    assert record.casts == 4


def test_neighbouring_islands_share_one_cast(graphs):
    content = graphs.build(SIGNATURE, "[one] x = Exp(image) [two] y = Exp(x) [three] logits = Add(y, x)")
    _, apart = to_half(graphs.read(content), "fp16", keep=["two"])
    _, together = to_half(graphs.read(content), "fp16", keep=["one", "two", "three"])
    assert apart.casts == 4
    assert together.casts == 0


def test_everything_kept_is_the_graph_itself(chain, graphs):
    half, record = to_half(chain, "fp16", keep=[node.name for node in chain.graph])
    assert record.nodes == 0
    assert graphs.ops(half) == graphs.ops(chain)


def test_numbers_that_do_not_fit_are_clipped_and_named(graphs):
    content = graphs.build(
        SIGNATURE,
        "x = Add(image, mask) logits = Add(x, small)",
        mask=np.array([-3e38, 0, -np.inf, 7e4], np.float32),
        small=np.full(4, 1e-9, np.float32),
    )
    half, record = to_half(graphs.read(content), "fp16")
    assert (record.clipped, record.vanished) == (("mask",), ("small",))
    values = half.graph.initializers["mask_fp16"].const_value.numpy()
    assert values.tolist() == [-65504, 0, -np.inf, 65504]
    _, bf16 = to_half(graphs.read(content), "bf16")
    assert (bf16.clipped, bf16.vanished) == ((), ())


def test_sizes_and_scales_of_resize_keep_their_types(graphs):
    nodes = 'x = Resize<mode = "nearest">(image, , scales) shape = Shape(x) y = Reshape(x, shape) logits = Relu(y)'
    content = graphs.build(
        "(float[1, 1, 2, 2] image) => (float[1, 1, 4, 4] logits)", nodes, scales=np.array([1, 1, 2, 2], np.float32)
    )
    known = types(to_half(graphs.read(content), "fp16")[0])
    assert known["x"] == onnx.TensorProto.FLOAT16
    assert known["shape"] == onnx.TensorProto.INT64


def test_casts_of_the_graph_follow(graphs):
    content = graphs.build(SIGNATURE, "n = Shape(image) f = Cast<to = 1>(n) m = ReduceMax(f) logits = Mul(image, m)")
    known = types(to_half(graphs.read(content), "fp16")[0])
    assert known["f"] == known["m"] == onnx.TensorProto.FLOAT16


def test_an_output_that_is_read_inside_too(graphs):
    text = "(float[1, 4] image) => (float[1, 4] middle, float[1, 4] logits)"
    content = graphs.build(text, "middle = Relu(image) logits = Relu(middle)")
    half, _ = to_half(graphs.read(content), "fp16")
    assert [value.name for value in half.graph.outputs] == ["middle", "logits"]
    assert {types(half)[name] for name in ("middle", "logits")} == {onnx.TensorProto.FLOAT}
    assert graphs.difference(content, half) < 2e-3


def test_the_result_is_near(graphs, chain):
    content = graphs.build(SIGNATURE, CHAIN, a=graphs.normal(4), b=graphs.normal(4))
    assert 0 < graphs.difference(content, to_half(graphs.read(content), "fp16")[0]) < 2e-3


@pytest.mark.parametrize("scale", [0.0123, 3e-6])
def test_scales_become_half_and_constants_follow_where_they_must(graphs, scale):
    values = np.arange(-127, 129, 4, dtype=np.int8).reshape(4, 16)
    nodes = "w = DequantizeLinear<axis = 0>(q, s, z) logits = MatMul(image, w)"
    content = graphs.build(
        "(float[1, 4] image) => (float[1, 16] logits)",
        nodes,
        q=values,
        s=np.full(4, scale, np.float32),
        z=np.zeros(4, np.int8),
    )
    half, _ = to_half(graphs.read(content), "fp16")
    node = next(node for node in half.graph if node.op_type == "DequantizeLinear")
    stored = node.inputs[1].const_value.numpy()
    assert stored.dtype == np.float16
    assert (stored.astype(np.float64) >= np.float32(scale)).all()
    actual = node.inputs[0].const_value.numpy() * stored.astype(np.float64)[:, None]
    assert np.abs(actual - values * scale).max() <= max(0.5 * stored[0], 127 * scale * 2**-10)


def test_a_pair_before_an_island_stays_float32(graphs):
    nodes = """q = QuantizeLinear(image, s, z) d = DequantizeLinear(q, s, z)
    [island] y = MatMul(d, w) [after] logits = Relu(y)"""
    content = graphs.build(SIGNATURE, nodes, s=np.float32(0.1), z=np.int8(0), w=graphs.normal(4, 4))
    known = types(to_half(graphs.read(content), "fp16", keep=["island"])[0])
    assert known["d"] == known["y"] == onnx.TensorProto.FLOAT
    assert types(to_half(graphs.read(content), "fp16")[0])["d"] == onnx.TensorProto.FLOAT16


def test_float_nodes_are_those_that_can_be_kept(graphs):
    content = graphs.build(SIGNATURE, "n = Shape(image) [flat] y = Reshape(image, n) [last] logits = Relu(y)")
    assert [node.name for node in float_nodes(graphs.read(content).graph)] == ["flat", "last"]


@pytest.mark.parametrize(
    ("nodes", "keep", "opset", "words"),
    [
        ("logits = Relu(image)", ["elsewhere"], 20, "no node is called 'elsewhere'"),
        ("q = QuantizeLinear(image, s) logits = DequantizeLinear(q, s)", [], 17, "opset 19"),
    ],
)
def test_what_cannot_be_written_is_refused(graphs, nodes, keep, opset, words):
    model = graphs.read(graphs.build(SIGNATURE, nodes, opset=opset, s=np.float32(1)))
    with pytest.raises(InputError, match=words):
        to_half(model, "fp16", keep)


def test_bf16_constants_are_rounded_to_nearest(graphs):
    content = graphs.build(SIGNATURE, "logits = Mul(image, a)", a=np.array([1.004, 1, 2, 3], np.float32))
    half, _ = to_half(graphs.read(content), "bf16")
    assert half.graph.initializers["a_bf16"].const_value.numpy()[0] == ml_dtypes.bfloat16(1.004)
