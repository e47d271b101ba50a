"""Passes for networks that work on channels-last images and windows of them: applied, and not applied."""

import numpy as np
import pytest

from medfm_compress.export.passes.add_without_reshapes import add_without_reshapes
from medfm_compress.export.passes.channels_last_sums import channels_last_sums
from medfm_compress.export.passes.flatten_tokens import tokens_on_three_axes
from medfm_compress.export.passes.graph import SAME_AS, remove_unused
from medfm_compress.export.passes.remove_empty_pads import remove_empty_pads

CLOSE = 1e-5
BATCHES = pytest.mark.parametrize("batch", [1, 8])


def named(model):
    return {output.name: output for node in model.graph for output in node.outputs}


def last(batch=1):
    return f"(float[{batch},4,6,8] x) => (float[{batch},4,6,8] y)"


def first(batch=1):
    return f"(float[{batch},8,4,6] x) => (float[a,b,c,d] y)"


# --- Pad ---------------------------------------------------------------------------------------------------------


def test_a_pad_of_nothing_goes(graphs):
    before = graphs.build(last(), "p = Pad(x, none) y = Relu(p)", none=[0] * 8)
    model = graphs.read(before)
    assert remove_empty_pads(model) == 1 and graphs.ops(model) == ["Relu"]
    assert graphs.difference(before, model) == 0


def test_views_before_and_behind_a_pad_of_nothing_become_one(graphs):
    nodes = "r = Relu(x) v = Reshape(r, four) p = Pad(v, none) y = Reshape(p, three)"
    signature = "(float[1,24,8] x) => (float[1,12,16] y)"
    before = graphs.build(signature, nodes, none=[0] * 8, four=[1, 4, 6, 8], three=[1, -1, 16])
    model = graphs.read(before)
    assert remove_empty_pads(model) == 1
    remove_unused(model)
    assert graphs.ops(model) == ["Relu", "Reshape"] and graphs.difference(before, model) == 0


@pytest.mark.parametrize("nodes", ["p = Pad(x, some) y = Relu(p)", "y = Pad(x, none)"])
def test_a_pad_that_pads_or_is_all_there_is_stays(graphs, nodes):
    model = graphs.read(
        graphs.build("(float[1,4,6,8] x) => (float[a,b,c,d] y)", nodes, none=[0] * 8, some=[0] * 7 + [1])
    )
    assert remove_empty_pads(model) == 0 and "Pad" in graphs.ops(model)


# --- LayerNormalization -------------------------------------------------------------------------------------------


@BATCHES
def test_layer_norm_gets_three_axes(graphs, batch):
    nodes = "r = Relu(x) n = LayerNormalization<axis=-1>(r, g, b) y = Softmax<axis=1>(n)"
    before = graphs.build(last(batch), nodes, g=graphs.normal(8), b=graphs.normal(8))
    model = graphs.read(before)
    assert tokens_on_three_axes(model) == 1
    values = named(model)
    assert tuple(values["n"].shape.numpy()) == (batch, 24, 8)
    assert tuple(values["n_image"].shape.numpy()) == (batch, 4, 6, 8)
    assert values["r_flat"].metadata_props[SAME_AS] == "r" and values["n_image"].metadata_props[SAME_AS] == "n"
    assert graphs.difference(before, model) < CLOSE
    assert tokens_on_three_axes(model) == 0


@BATCHES
def test_a_block_on_channels_last_images_gets_three_axes(graphs, batch):
    nodes = """
        n = LayerNormalization<axis=3>(x, g, g) m = MatMul(n, w) a = Add(m, c) h = Gelu(a) r = Add(h, x)
        t = Transpose<perm=[0,3,1,2]>(r) y = Transpose<perm=[0,2,3,1]>(t)
    """
    constants = {"g": graphs.normal(8), "w": graphs.normal(8, 8), "c": graphs.normal(8)}
    before = graphs.build(last(batch), nodes, **constants)
    model = graphs.read(before)
    assert tokens_on_three_axes(model) == 5
    assert all(len(named(model)[name].shape) == 3 for name in "nmahr")
    assert graphs.ops(model).count("Reshape") == 2
    assert graphs.difference(before, model) < CLOSE
    assert tokens_on_three_axes(model) == 0


def test_reshapes_around_layer_norm_are_not_doubled(graphs):
    nodes = """
        r = Relu(x) t = Reshape(r, tokens) s = Sigmoid(t) i = Reshape(s, image)
        n = LayerNormalization<axis=3>(i, g, g) w = Reshape(n, windows) y = Softmax<axis=1>(w)
    """
    signature = "(float[1,4,6,8] x) => (float[1,2,12,8] y)"
    sizes = {"tokens": [1, 24, 8], "image": [1, 4, 6, 8], "windows": [1, 2, 12, 8]}
    before = graphs.build(signature, nodes, g=graphs.normal(8), **sizes)
    model = graphs.read(before)
    assert tokens_on_three_axes(model) == 1
    remove_unused(model)
    assert graphs.ops(model) == ["Relu", "Reshape", "Sigmoid", "LayerNormalization", "Reshape", "Softmax"]
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize(
    "signature, nodes",
    [
        (last(), "r = Relu(x) y = LayerNormalization<axis=-1>(r, g, b)"),  # the graph's output keeps its axes
        (last(), "n = LayerNormalization<axis=2>(x, gg, gg) y = Relu(n)"),  # over more than channels
        ("(float[1,24,8] x) => (float[1,24,8] y)", "n = LayerNormalization<axis=-1>(x, g, b) y = Relu(n)"),
        ("(float[N,4,6,8] x) => (float[N,4,6,8] y)", "n = LayerNormalization<axis=-1>(x, g, b) y = Relu(n)"),
    ],
)
def test_layer_norm_that_stays(graphs, signature, nodes):
    constants = {"g": graphs.normal(8), "b": graphs.normal(8), "gg": graphs.normal(6, 8)}
    assert tokens_on_three_axes(graphs.read(graphs.build(signature, nodes, **constants))) == 0


# --- masks of windows ---------------------------------------------------------------------------------------------

WINDOWS, HEADS, TOKENS = 3, 2, 5
MASKED = "p = Relu(x) v = Reshape(p, viewed) m = Add(v, mask) w = Reshape(m, back) y = Softmax<axis=-1>(w)"


def masked(graphs, mask, nodes=MASKED, batch=1):
    shape = f"{batch * WINDOWS},{HEADS},{TOKENS},{TOKENS}"
    sizes = {
        "viewed": [batch, WINDOWS, HEADS, TOKENS, TOKENS],
        "back": [batch * WINDOWS, HEADS, TOKENS, TOKENS],
        "other": [batch * WINDOWS * HEADS, 1, TOKENS, TOKENS],
    }
    return graphs.build(f"(float[{shape}] x) => (float[a,b,c,d] y)", nodes, mask=mask, **sizes)


@BATCHES
def test_a_mask_of_windows_is_added_without_a_view(graphs, batch):
    before = masked(graphs, graphs.normal(1, WINDOWS, 1, TOKENS, TOKENS), batch=batch)
    model = graphs.read(before)
    assert add_without_reshapes(model) == 1 and graphs.ops(model) == ["Relu", "Add", "Softmax"]
    mask = next(value for value in named(model)["w"].producer().inputs if value.const_value is not None)
    assert tuple(mask.shape.numpy()) == (batch * WINDOWS, 1, TOKENS, TOKENS)
    assert graphs.difference(before, model) < CLOSE
    assert add_without_reshapes(model) == 0


@pytest.mark.parametrize(
    "shape, nodes",
    [
        ((1, WINDOWS, HEADS, TOKENS, TOKENS), MASKED),  # as large as the scores
        (
            (1, WINDOWS, 1, TOKENS, TOKENS),
            MASKED.replace("m = Add(v, mask)", "n = Neg(v) a = Add(v, mask) m = Mul(a, n)"),
        ),
        ((1, WINDOWS, 1, TOKENS, TOKENS), MASKED.replace("back", "other")),
    ],
)
def test_a_mask_that_keeps_its_view(graphs, shape, nodes):
    model = graphs.read(masked(graphs, graphs.normal(*shape), nodes))
    assert add_without_reshapes(model) == 0


# --- sums before convolutions -------------------------------------------------------------------------------------

BLOCK = """
    c = Conv<group=8, pads=[1,1,1,1]>(x, k) t = Transpose<perm=[0,2,3,1]>(c) m = MatMul(t, w)
    b = Transpose<perm=[0,3,1,2]>(m) s = Mul(b, gamma) a = Add(s, c) d = Conv<group=8, pads=[1,1,1,1]>(a, k)
    t2 = Transpose<perm=[0,2,3,1]>(d) m2 = MatMul(t2, w) b2 = Transpose<perm=[0,3,1,2]>(m2) a2 = Add(a, b2)
    e = Transpose<perm=[0,2,3,1]>(a2) y = Relu(e)
"""


def constants_of(graphs):
    return {"k": graphs.normal(8, 1, 3, 3), "w": graphs.normal(8, 8), "gamma": graphs.normal(8, 1, 1)}


@BATCHES
def test_sums_move_before_the_transpose(graphs, batch):
    before = graphs.build(first(batch), BLOCK, **constants_of(graphs))
    model = graphs.read(before)
    assert channels_last_sums(model) == 3
    values = named(model)
    assert [value.producer().op_type for value in (values["a"], values["a_last"])] == ["Transpose", "Add"]
    assert tuple(values["a_last"].shape.numpy()) == (batch, 4, 6, 8)
    assert "a2" not in values and graphs.ops(model).count("Transpose") == 4  # two into, two out of a convolution
    assert graphs.difference(before, model) < CLOSE
    assert channels_last_sums(model) == 0


@pytest.mark.parametrize(
    "nodes",
    [
        "b = Transpose<perm=[0,3,1,2]>(x) a = Add(b, b) y = Relu(b)",  # the Transpose is needed anyway
        "b = Transpose<perm=[0,3,1,2]>(x) r = Relu(x) s = Reshape(r, other) a = Add(b, s) y = Relu(a)",
        "b = Transpose<perm=[0,1,3,2]>(x) a = Sigmoid(b) y = Relu(a)",  # not of channels
        "b = Transpose<perm=[0,3,1,2]>(x) y = Relu(b)",  # the graph's output keeps its axes
        "b = Transpose<perm=[0,3,1,2]>(x) g = GlobalAveragePool(b) a = Mul(b, g) y = Relu(a)",  # a gate
    ],
)
def test_sums_that_stay(graphs, nodes):
    signature = "(float[1,4,6,8] x) => (float[a,b,c,d] y)"
    model = graphs.read(graphs.build(signature, nodes, other=[1, 8, 4, 6]))
    assert channels_last_sums(model) == 0


def test_numbers_of_one_element_are_left_as_they_are(graphs):
    nodes = "b = Transpose<perm=[0,3,1,2]>(x) a = Mul(b, two) c = Clip(a, zero, two) y = Transpose<perm=[0,2,3,1]>(c)"
    before = graphs.build(last(), nodes, two=np.float32(2), zero=np.float32(0))
    model = graphs.read(before)
    assert channels_last_sums(model) == 2
    assert graphs.difference(before, model) < CLOSE
