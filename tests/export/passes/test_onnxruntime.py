"""Each of ONNX Runtime's passes where it applies, where it does not, and that the graph computes the same."""

import numpy as np
import pytest

from medfm_compress.export.passes.average_pool_to_conv import average_pool_to_conv
from medfm_compress.export.passes.batch_norm_to_conv import batch_norm_to_conv
from medfm_compress.export.passes.flatten_tokens import flatten_tokens
from medfm_compress.export.passes.global_pool import global_pool
from medfm_compress.export.passes.graph import SAME_AS, remove_unused
from medfm_compress.export.passes.matmul_to_gemm import matmul_to_gemm
from medfm_compress.export.passes.quick_gelu import quick_gelu
from medfm_compress.export.passes.space_to_depth import space_to_depth

CLOSE = 1e-5
IMAGE = "(float[1,4,8,8] x) => (float[a,b,c,d] y)"
TOKENS = "(float[1,5,4] x) => (float[1,5,4] y)"

# one block of a transformer, without attention
BLOCK = """
    t = Transpose<perm=[0,2,1]>(x) tt = Transpose<perm=[0,2,1]>(t) p = Add(tt, pos)
    n = LayerNormalization<axis=-1>(p, g, b) m = MatMul(n, w) a = Add(m, c) h = Gelu(a) k = MatMul(h, v) e = Add(k, b)
    r = Add(p, e) y = Softmax<axis=1>(r)
"""


def block(graphs):
    constants = {"g": graphs.normal(4), "b": graphs.normal(4), "c": graphs.normal(6), "pos": graphs.normal(1, 5, 4)}
    return graphs.build(TOKENS, BLOCK, w=graphs.normal(4, 6), v=graphs.normal(6, 4), **constants)


def named(model):
    return {output.name: output for node in model.graph for output in node.outputs}


def test_tokens_are_kept_in_two_axes_within_a_block(graphs):
    before = block(graphs)
    model = graphs.read(before)
    assert flatten_tokens(model) == 8
    values = named(model)
    assert all(len(values[name].shape) == 2 for name in "pnmahker")
    assert graphs.ops(model).count("Reshape") == 2  # in, and out for the Softmax
    assert values["tt_flat"].metadata_props[SAME_AS] == "tt"
    assert values["r_tokens"].metadata_props[SAME_AS] == "r"
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("batch", [1, 8])
def test_channels_last_images_and_windows_are_flattened_alike(graphs, batch):
    nodes = """
        n = LayerNormalization<axis=3>(x, g, g) v = Reshape(n, windows) m = MatMul(v, w) a = Add(m, c)
        i = Reshape(a, image) h = Gelu(i) r = Add(h, x) p = Add(r, once) y = Softmax<axis=1>(p)
    """
    signature = f"(float[{batch},4,6,4] x) => (float[{batch},4,6,4] y)"
    sizes = {"windows": [batch * 2, 12, 4], "image": [batch, 4, 6, 4]}
    constants = {"w": graphs.normal(4, 4), "g": graphs.normal(4), "c": graphs.normal(1, 1, 4)}
    before = graphs.build(signature, nodes, once=graphs.normal(1, 4, 6, 4), **constants, **sizes)
    model = graphs.read(before)
    assert flatten_tokens(model) == (6 if batch == 1 else 5)  # a constant for one image is not one for eight
    remove_unused(model)
    values = named(model)
    assert tuple(values["m"].shape.numpy()) == (batch * 24, 4)
    assert not {"v", "i"} & set(values)  # views in between are gone
    assert graphs.difference(before, model) < CLOSE


def test_images_with_channels_in_front_are_left_alone(graphs):
    nodes = """
        c = Conv(x, k) r = Relu(c) s = Add(r, x) t = Reshape(s, tokens) u = Transpose<perm=[0,2,1]>(t)
        m = MatMul(u, w) y = Softmax<axis=1>(m)
    """
    constants = {"k": graphs.normal(4, 4, 1, 1), "w": graphs.normal(4, 4), "tokens": [1, 4, 64]}
    model = graphs.read(graphs.build("(float[1,4,8,8] x) => (float[1,64,4] y)", nodes, **constants))
    assert flatten_tokens(model) == 1
    assert len(named(model)["r"].shape) == 4


@pytest.mark.parametrize(
    "nodes",
    [
        "n = LayerNormalization<axis=-1>(x, g, g) y = Relu(n)",  # nothing to gain
        "m = MatMul(x, w) y = Add(m, g)",  # the output of the graph keeps its axes
        "m = MatMul(x, ww) r = Relu(m) y = Softmax<axis=1>(r)",
    ],
)
def test_tokens_stay_in_three_axes(graphs, nodes):
    constants = {"w": graphs.normal(4, 4), "g": graphs.normal(4), "ww": graphs.normal(1, 4, 4)}
    model = graphs.read(graphs.build(TOKENS, nodes, **constants))
    assert flatten_tokens(model) == 0 and "Reshape" not in graphs.ops(model)


def test_a_matmul_and_its_bias_become_a_gemm(graphs):
    before = block(graphs)
    model = graphs.read(before)
    flatten_tokens(model)
    layers = [node.name for node in model.graph if node.op_type == "MatMul"]
    assert matmul_to_gemm(model) == 2
    gemms = [node for node in model.graph if node.op_type == "Gemm"]
    assert [node.name for node in gemms] == layers and [node.outputs[0].name for node in gemms] == ["a", "e"]
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("nodes", ["m = MatMul(x, w) y = Relu(m)", "m = MatMul(x, w) a = Add(m, x) y = Relu(a)"])
def test_a_matmul_without_a_constant_bias_stays(graphs, nodes):
    model = graphs.read(graphs.build("(float[5,4] x) => (float[5,4] y)", nodes, w=graphs.normal(4, 4)))
    assert matmul_to_gemm(model) == 0


def test_a_matmul_on_three_axes_stays(graphs):
    model = graphs.read(block(graphs))
    assert matmul_to_gemm(model) == 0


def norm(graphs, nodes, signature=IMAGE, **more):
    constants = {"g": graphs.normal(4), "b": graphs.normal(4), "m": graphs.normal(4), "v": graphs.normal(4) ** 2}
    return graphs.build(signature, nodes, **constants, **more)


def test_a_pre_activation_batch_norm_becomes_a_conv(graphs):
    before = norm(graphs, "n = BatchNormalization<epsilon=0.01>(x, g, b, m, v) y = Relu(n)")
    model = graphs.read(before)
    name = model.graph[0].name
    assert batch_norm_to_conv(model) == 1 and graphs.ops(model) == ["Conv", "Relu"]
    assert (model.graph[0].name, model.graph[0].outputs[0].name) == (name, "n")
    assert graphs.difference(before, model) < CLOSE


def test_a_batch_norm_of_vectors_or_of_computed_numbers_stays(graphs):
    vectors = norm(graphs, "y = BatchNormalization(x, g, b, m, v)", "(float[1,4] x) => (float[1,4] y)")
    computed = norm(graphs, "h = ReduceMax<keepdims=0>(x, o) y = BatchNormalization(x, h, b, m, v)", o=[0, 2, 3])
    for content in (vectors, computed):
        assert batch_norm_to_conv(graphs.read(content)) == 0


@pytest.mark.parametrize("attributes", ["kernel_shape=[2,2],strides=[2,2]", "kernel_shape=[3,2]"])
def test_an_average_pool_becomes_a_conv(graphs, attributes):
    before = graphs.build(IMAGE, f"r = AveragePool<{attributes}>(x) y = Relu(r)")
    model = graphs.read(before)
    assert average_pool_to_conv(model) == 1 and graphs.ops(model) == ["Conv", "Relu"]
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize(
    "attributes",
    ["kernel_shape=[3,3],pads=[1,1,1,1]", 'kernel_shape=[2,2],auto_pad="SAME_UPPER"', "kernel_shape=[3,3],ceil_mode=1"],
)
def test_an_average_pool_with_padding_stays(graphs, attributes):
    model = graphs.read(graphs.build(IMAGE, f"r = AveragePool<{attributes}>(x) y = Relu(r)"))
    assert average_pool_to_conv(model) == 0


@pytest.mark.parametrize(("keep", "axes", "opset"), [(1, [2, 3], 20), (0, [-1, -2], 20)])
def test_a_mean_over_the_image_becomes_a_global_pool(graphs, keep, axes, opset):
    signature = "(float[1,4,8,8] x) => (float[a,b,c,d] y)" if keep else "(float[1,4,8,8] x) => (float[a,b] y)"
    before = graphs.build(signature, f"r = ReduceMean<keepdims={keep}>(x, o) y = Relu(r)", opset, o=axes)
    model = graphs.read(before)
    assert global_pool(model) == 1 and graphs.ops(model)[0] == "GlobalAveragePool"
    if not keep:
        assert named(model)["r_pool"].metadata_props[SAME_AS] == "r"
    assert graphs.difference(before, model) < CLOSE


def test_the_axes_of_an_older_opset_are_an_attribute(graphs):
    before = graphs.build(IMAGE, "r = ReduceMean<axes=[2,3]>(x) y = Relu(r)", 13)
    model = graphs.read(before)
    assert global_pool(model) == 1
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("axes", [[1], [2], [1, 2, 3]])
def test_another_mean_stays(graphs, axes):
    model = graphs.read(graphs.build(IMAGE, "r = ReduceMean(x, o) y = Relu(r)", o=axes))
    assert global_pool(model) == 0


@pytest.mark.parametrize("product", ["Mul(x, s)", "Mul(s, x)"])
def test_silu_becomes_one_kernel(graphs, product):
    before = graphs.build(IMAGE, f"s = Sigmoid(x) z = {product} y = Relu(z)")
    model = graphs.read(before)
    assert quick_gelu(model) == 1 and graphs.ops(model) == ["QuickGelu", "Relu"]
    assert model.graph[0].outputs[0].name == "z"
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("nodes", ["s = Sigmoid(x) y = Mul(s, w)", "s = Sigmoid(x) z = Mul(x, s) y = Add(z, s)"])
def test_another_gate_stays(graphs, nodes):
    model = graphs.read(graphs.build(IMAGE, nodes, w=np.float32(2)))
    assert quick_gelu(model) == 0 and "com.microsoft" not in model.opset_imports


UNFOLD = "i = Relu(x) a = Reshape(i, six) b = Transpose<perm=[0,1,3,5,2,4]>(a) c = Reshape(b, four) y = Softmax(c)"
FOLD = "i = Relu(x) a = Reshape(i, back) b = Transpose<perm=[0,1,4,2,5,3]>(a) c = Reshape(b, image) y = Relu(c)"
UNFOLD_SIZES = {"six": [1, 3, 4, 2, 6, 2], "four": [1, 3, 4, 24]}
FOLD_SIZES = {"back": [1, 3, 2, 2, 4, 6], "image": [1, 3, 8, 12]}


@pytest.mark.parametrize(
    ("nodes", "shape", "sizes", "op"),
    [
        (UNFOLD, "1,3,8,12", UNFOLD_SIZES, "SpaceToDepth"),
        (UNFOLD, "1,3,8,12", UNFOLD_SIZES | {"four": [1, 12, 24]}, "SpaceToDepth"),
        (FOLD, "1,3,4,24", FOLD_SIZES, "DepthToSpace"),
    ],
)
def test_patches_are_unfolded_and_folded_by_rows(graphs, nodes, shape, sizes, op):
    result = ",".join("abcd"[: len(sizes["four"])]) if "four" in sizes else "a,b,c,d"
    before = graphs.build(f"(float[{shape}] x) => (float[{result}] y)", nodes, **sizes)
    model = graphs.read(before)
    assert space_to_depth(model) == 1 and op in graphs.ops(model)
    values = named(model)
    assert len(values["c"].shape) == len(sizes.get("four", [0] * 4))
    assert graphs.difference(before, model) == 0


@pytest.mark.parametrize(
    ("nodes", "sizes"),
    [
        (UNFOLD.replace("0,1,3,5,2,4", "0,1,5,3,2,4"), UNFOLD_SIZES),  # blocks turned
        (UNFOLD, {"six": [1, 3, 2, 4, 6, 2], "four": [1, 3, 8, 12]}),  # blocks of 4 by 2
        (UNFOLD.replace("Softmax(c)", "ReduceMax(b)"), UNFOLD_SIZES),
    ],
)
def test_another_move_of_six_axes_stays(graphs, nodes, sizes):
    result = "a,b,c,d,e,f" if "ReduceMax" in nodes else "a,b,c,d"
    model = graphs.read(graphs.build(f"(float[1,3,8,12] x) => (float[{result}] y)", nodes, **sizes))
    assert space_to_depth(model) == 0
