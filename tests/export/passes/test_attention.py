"""Attention, in the layouts that networks write it in, is found and rewritten; what only looks like it stays."""

import numpy as np
import pytest

from medfm_compress.export.passes.attention import find_attention
from medfm_compress.export.passes.multi_head_attention import multi_head_attention
from medfm_compress.export.passes.split_attention import split_attention

CLOSE = 1e-5
TOKENS, HEADS, WIDTH = 5, 2, 4
CHANNELS = HEADS * WIDTH
SIGNATURE = f"(float[1,{TOKENS},{CHANNELS}] x) => (float[1,{TOKENS},{CHANNELS}] y)"
PROJECTED = "m = MatMul(x, w) l = Add(m, b)"
END = "p = Softmax<axis=-1>(s) o = MatMul(p, v) t = Transpose<perm=[0,2,1,3]>(o) u = Reshape(t, flat) y = Relu(u)"

# permute to [3, batch, heads, tokens, width], then three slices; the scale's root on both sides (ViT, DeiT)
SLICED = f"""
    {PROJECTED} r = Reshape(l, five) a = Transpose<perm=[2,0,3,1,4]>(r)
    q0 = Slice(a, zero, one, zero) q = Squeeze(q0, zero) k0 = Slice(a, one, two, zero) k = Squeeze(k0, zero)
    v0 = Slice(a, two, three, zero) v = Squeeze(v0, zero)
    k1 = Reshape(k, three_axes) k2 = Transpose<perm=[0,2,1]>(k1) k3 = Reshape(k2, four_axes)
    q4 = Mul(q, root) k4 = Mul(k3, root) s = MatMul(q4, k4) {END}
"""
# each head holds its own queries, keys and values; a bias of positions (EfficientFormer, LeViT)
BY_HEAD = f"""
    {PROJECTED} r = Reshape(l, by_head) a = Transpose<perm=[0,2,1,3]>(r) q, k, v = Split<axis=3>(a, widths)
    kt = Transpose<perm=[0,1,3,2]>(k) s0 = MatMul(q, kt) s1 = Div(s0, root) s = Add(s1, mask) {END}
"""
# three layers, nothing to scale
SEPARATE = f"""
    q0 = MatMul(x, wq) q1 = Reshape(q0, four) q = Transpose<perm=[0,2,1,3]>(q1)
    k0 = MatMul(x, wk) k1 = Reshape(k0, four) k = Transpose<perm=[0,2,3,1]>(k1)
    v0 = MatMul(x, wv) v1 = Reshape(v0, four) v = Transpose<perm=[0,2,1,3]>(v1)
    s = MatMul(q, k) {END}
"""
# an image with its channels in front, each head's queries, keys and values together (CoAtNet)
IMAGE = """
    c0 = Transpose<perm=[0,2,1]>(x) c1 = Reshape(c0, image) l = Conv(c1, wc, b) r = Reshape(l, image_heads)
    q0, k0, v0 = Split<axis=2>(r, widths) q = Transpose<perm=[0,1,3,2]>(q0) v = Transpose<perm=[0,1,3,2]>(v0)
    k = Mul(root, k0) s0 = MatMul(q, k) s = Add(mask, s0) p = Softmax<axis=-1>(s) o = MatMul(p, v)
    t = Transpose<perm=[0,1,3,2]>(o) u = Reshape(t, image) z = Reshape(u, channels_first)
    y = Transpose<perm=[0,2,1]>(z)
"""
LAYOUTS = {"sliced": SLICED, "by head": BY_HEAD, "separate": SEPARATE, "image": IMAGE}
ON_TOKENS = ["sliced", "by head", "separate"]


def build(graphs, nodes, mask=None, batch=1, **more):
    sizes = {
        "five": [batch, TOKENS, 3, HEADS, WIDTH],
        "by_head": [batch, TOKENS, HEADS, 3 * WIDTH],
        "four": [batch, TOKENS, HEADS, WIDTH],
        "flat": [batch, TOKENS, CHANNELS],
        "three_axes": [batch * HEADS, TOKENS, WIDTH],
        "four_axes": [batch, HEADS, WIDTH, TOKENS],
        "widths": [WIDTH] * 3,
        "image": [batch, CHANNELS, TOKENS, 1],
        "image_heads": [batch, HEADS, 3 * WIDTH, TOKENS],
        "channels_first": [batch, CHANNELS, TOKENS],
    }
    numbers = {"zero": [0], "one": [1], "two": [2], "three": [3]}
    weights = {name: graphs.normal(CHANNELS, CHANNELS) for name in ("wq", "wk", "wv")}
    return graphs.build(
        SIGNATURE.replace("[1,", f"[{batch},"),
        nodes,
        w=graphs.normal(CHANNELS, 3 * CHANNELS),
        wc=graphs.normal(3 * CHANNELS, CHANNELS, 1, 1),
        b=graphs.normal(3 * CHANNELS),
        root=np.float32(0.7),
        mask=graphs.normal(HEADS, TOKENS, TOKENS) if mask is None else mask,
        **more,
        **weights,
        **sizes,
        **numbers,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found(graphs, layout):
    attentions = find_attention(graphs.read(build(graphs, LAYOUTS[layout])))
    assert len(attentions) == 1 and attentions[0].output.name == "u"
    assert attentions[0].query.columns.shape == (HEADS, WIDTH)
    assert bool(attentions[0].masks) == (layout in ("by head", "image"))


@pytest.mark.parametrize("layout", ["sliced", "by head"])
def test_one_layer_becomes_three(graphs, layout):
    before = build(graphs, LAYOUTS[layout])
    model = graphs.read(before)
    assert split_attention(model) == 1
    ops = graphs.ops(model)
    assert ops.count("MatMul") == 5 and not {"Slice", "Split", "Squeeze", "Mul", "Div"} & set(ops)
    assert {"l_query", "l_key", "l_value", "s", "p", "o", "u"} <= {n.outputs[0].name for n in model.graph}
    assert graphs.difference(before, model) < CLOSE
    assert split_attention(model) == 0


def test_one_conv_becomes_three(graphs):
    before = build(graphs, IMAGE)
    model = graphs.read(before)
    assert split_attention(model) == 1
    ops = graphs.ops(model)
    assert ops.count("Conv") == 3 and not {"Split", "Mul"} & set(ops)
    assert {"l_query", "l_key", "l_value", "s", "p", "o", "u"} <= {n.outputs[0].name for n in model.graph}
    assert graphs.difference(before, model) < CLOSE
    assert split_attention(model) == 0


def test_images_stay_out_of_the_fused_kernel(graphs):
    model = graphs.read(build(graphs, IMAGE))
    assert multi_head_attention(model) == 0 and "com.microsoft" not in model.opset_imports


def test_three_layers_stay(graphs):
    model = graphs.read(build(graphs, SEPARATE))
    assert split_attention(model) == 0


@pytest.mark.parametrize("layout", ON_TOKENS)
def test_attention_is_fused_as_one_kernel(graphs, layout):
    before = build(graphs, LAYOUTS[layout])
    model = graphs.read(before)
    assert multi_head_attention(model) == 1
    ops = graphs.ops(model)
    assert "MultiHeadAttention" in ops and not {"Softmax", "Transpose", "Slice", "Split"} & set(ops)
    assert model.opset_imports["com.microsoft"] == 1
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("shape", [(TOKENS,), (TOKENS, 1), (1, 1, TOKENS), (1, HEADS, 1, TOKENS), ()])
def test_a_mask_that_broadcasts_is_spread_for_the_kernel(graphs, shape):
    before = build(graphs, BY_HEAD, mask=graphs.normal(*shape))
    model = graphs.read(before)
    assert multi_head_attention(model) == 1
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("layout", ["sliced", "by head"])
def test_attention_is_fused_after_it_was_split(graphs, layout):
    before = build(graphs, LAYOUTS[layout])
    model = graphs.read(before)
    split_attention(model)
    layers = [node.name for node in model.graph if node.op_type == "MatMul"]
    assert multi_head_attention(model) == 1
    assert [node.name for node in model.graph if node.op_type == "MatMul"] == layers[:2] + layers[3:4]
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("layout", ["by head", "separate", "image"])
def test_attention_within_each_of_several_windows_is_found(graphs, layout):
    before = build(graphs, LAYOUTS[layout], batch=3)
    attentions = find_attention(graphs.read(before))
    assert len(attentions) == 1 and attentions[0].output.name == "u"
    for rewrite in (split_attention, multi_head_attention):
        model = graphs.read(before)
        assert rewrite(model) == (layout != ("separate" if rewrite is split_attention else "image"))
        assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("rewrite", [split_attention, multi_head_attention])
def test_masks_of_windows_and_of_heads_are_both_kept(graphs, rewrite):
    nodes = BY_HEAD.replace("s = Add(s1, mask)", "s2 = Add(s1, mask) s = Add(s2, shifted)")
    shifted = graphs.normal(3, 1, TOKENS, TOKENS)
    before = build(graphs, nodes, batch=3, shifted=shifted)
    attention = find_attention(graphs.read(before))[0]
    assert len(attention.masks) == 2 and attention.scores.name == "s1"
    model = graphs.read(before)
    assert rewrite(model) == 1
    assert graphs.difference(before, model) < CLOSE


MIXED = SLICED.replace("perm=[0,2,1]>(k1)", "perm=[0,1,2]>(k1)")
OTHERS = {
    "tokens mixed": MIXED,  # keys reshaped without the transpose: each holds numbers of several tokens
    "mask of the input": BY_HEAD.replace("Add(s1, mask)", "Add(s1, s0)"),
    "softmax over queries": SLICED.replace("axis=-1", "axis=2"),
    "weights read twice": SLICED.replace("y = Relu(u)", "z = ReduceMax(p) y = Add(u, z)"),
    "bounds that are computed": SLICED.replace("Slice(a, zero, one,", "Slice(a, zero, computed,").replace(
        PROJECTED, f"{PROJECTED} computed = Add(one, zero)"
    ),
    "scale of each head": BY_HEAD.replace("Div(s0, root)", "Div(s0, each)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_attention_of_this_form_stays(graphs, name):
    nodes = OTHERS[name].replace("each", "mask")
    model = graphs.read(build(graphs, nodes))
    count = len(model.graph)
    assert find_attention(model) == []
    assert split_attention(model) == multi_head_attention(model) == 0
    assert len(model.graph) == count
