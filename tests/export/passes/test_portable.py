"""Each portable pass where it applies, where it does not, and that the graph computes the same."""

import gc
import weakref

import numpy as np
import pytest

from medfm_compress.export.passes.flush_subnormals import flush_subnormals
from medfm_compress.export.passes.fold_affine_after import fold_affine_after
from medfm_compress.export.passes.fold_affine_before import fold_affine_before
from medfm_compress.export.passes.pipeline import simplify
from medfm_compress.export.passes.split_layers import split_layers
from medfm_compress.export.passes.tidy import tidy

CLOSE = 1e-5
IMAGE = "(float[1,4,8,8] x) => (float[1,6,8,8] y)"
TOKENS = "(float[1,5,4] x) => (float[1,5,6] y)"


def names(model):
    return {output.name for node in model.graph for output in node.outputs}


@pytest.mark.parametrize("op", ["Mul", "Div", "Add", "Sub"])
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1,), ()])
def test_what_scales_the_output_of_a_conv_is_folded(graphs, op, shape):
    nodes = f"c = Conv<pads=[1,1,1,1]>(x, w, b) s = {op}(c, k) y = Relu(s)"
    before = graphs.build(IMAGE, nodes, w=graphs.normal(6, 4, 3, 3), b=graphs.normal(6), k=graphs.normal(*shape))
    model = graphs.read(before)
    assert fold_affine_after(model) == 1
    assert graphs.ops(model) == ["Conv", "Relu"] and names(model) == {"s", "y"}
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("nodes", ["m = MatMul(x, w) a = Add(b, m) y = Mul(k, a)", "m = MatMul(x, w) y = Mul(m, k)"])
def test_layer_scale_behind_a_matmul_is_folded(graphs, nodes):
    before = graphs.build(TOKENS, nodes, w=graphs.normal(4, 6), b=graphs.normal(6), k=graphs.normal(6))
    model = graphs.read(before)
    assert fold_affine_after(model) == 1 and "Mul" not in graphs.ops(model)
    assert graphs.difference(before, model) < CLOSE


def test_a_batch_norm_written_out_behind_a_gemm_is_folded(graphs):
    nodes = "g = Gemm<transB=1>(x, w) s = Mul(g, k) y = Add(s, t)"
    before = graphs.build(
        "(float[1,4] x) => (float[1,6] y)", nodes, w=graphs.normal(6, 4), k=graphs.normal(6), t=graphs.normal(6)
    )
    model = graphs.read(before)
    assert fold_affine_after(model) == 2 and graphs.ops(model) == ["Gemm"]
    assert graphs.difference(before, model) < CLOSE


def test_weights_that_two_layers_share_are_not_changed_for_the_other(graphs):
    nodes = "c = Conv(x, w) s = Mul(c, k) d = Conv(x, w) y = Add(s, d)"
    before = graphs.build(IMAGE, nodes, w=graphs.normal(6, 4, 1, 1), k=graphs.normal(6, 1, 1))
    model = graphs.read(before)
    assert fold_affine_after(model) == 1
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize(
    "nodes",
    [
        "c = Conv(x, w) s = Mul(c, k) y = Add(s, c)",  # the unscaled output is read too
        "c = Conv(x, w) y = Mul(c, h)",  # varies along height
        "c = Conv(x, w) y = Sub(k, c)",
        "c = Conv(x, w) y = Div(c, zero)",
        "c = Conv(x, w) r = Relu(c) y = Mul(r, k)",
    ],
)
def test_what_is_no_scale_of_a_layer_stays(graphs, nodes):
    constants = {"k": graphs.normal(6, 1, 1), "h": graphs.normal(8, 1), "zero": np.zeros((6, 1, 1), np.float32)}
    model = graphs.read(graphs.build(IMAGE, nodes, w=graphs.normal(6, 4, 1, 1), **constants))
    count = len(model.graph)
    assert fold_affine_after(model) == 0 and len(model.graph) == count


def test_the_affine_part_of_a_norm_is_folded_into_every_reader(graphs):
    nodes = "r = Relu(x) s = Mul(r, k) t = Add(s, o) c = Conv(t, w) d = Conv(t, v, b) y = Add(c, d)"
    constants = {"k": graphs.normal(4, 1, 1), "o": graphs.normal(4, 1, 1), "b": graphs.normal(6)}
    before = graphs.build(IMAGE, nodes, w=graphs.normal(6, 4, 1, 1), v=graphs.normal(6, 4, 1, 1), **constants)
    model = graphs.read(before)
    assert fold_affine_before(model) == 2
    assert graphs.ops(model) == ["Relu", "Conv", "Conv", "Add"]
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("group", [1, 2, 4])
def test_a_scale_goes_through_padding_and_groups(graphs, group):
    nodes = f"r = Relu(x) s = Div(r, k) y = Conv<pads=[1,1,1,1],group={group}>(s, w)"
    signature = "(float[1,4,8,8] x) => (float[1,8,8,8] y)"
    before = graphs.build(signature, nodes, w=graphs.normal(8, 4 // group, 3, 3), k=graphs.normal(4, 1, 1))
    model = graphs.read(before)
    assert fold_affine_before(model) == 1 and graphs.ops(model) == ["Relu", "Conv"]
    assert graphs.difference(before, model) < CLOSE


def test_a_batch_norm_before_a_conv_is_folded(graphs):
    nodes = "r = Relu(x) n = BatchNormalization<epsilon=0.1>(r, g, b, m, v) y = Conv(n, w)"
    constants = {"g": graphs.normal(4), "b": graphs.normal(4), "m": graphs.normal(4), "v": graphs.normal(4) ** 2}
    before = graphs.build(IMAGE, nodes, w=graphs.normal(6, 4, 1, 1), **constants)
    model = graphs.read(before)
    assert fold_affine_before(model) == 1 and graphs.ops(model) == ["Relu", "Conv"]
    assert graphs.difference(before, model) < CLOSE


def test_a_shift_before_linear_layers_becomes_their_bias(graphs):
    nodes = "s = Sub(x, o) m = MatMul(s, w) a = Add(m, b) n = MatMul(s, v) y = Add(a, n)"
    constants = {"o": graphs.normal(4), "b": graphs.normal(6), "v": graphs.normal(4, 6)}
    before = graphs.build(TOKENS, nodes, w=graphs.normal(4, 6), **constants)
    model = graphs.read(before)
    assert fold_affine_before(model) == 1 and "Sub" not in graphs.ops(model)
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize(
    "nodes",
    [
        "s = Add(x, k) y = Conv<pads=[1,1,1,1]>(s, w)",  # a padded zero is not shifted
        "s = Mul(x, k) c = Conv<pads=[1,1,1,1]>(s, w) r = ReduceMax(s) y = Add(c, r)",  # another reader
        "s = Mul(x, h) y = Conv<pads=[1,1,1,1]>(s, w)",
    ],
)
def test_what_cannot_go_into_the_next_layer_stays(graphs, nodes):
    constants = {"k": graphs.normal(4, 1, 1), "h": graphs.normal(8, 1)}
    model = graphs.read(graphs.build(IMAGE, nodes, w=graphs.normal(6, 4, 3, 3), **constants))
    assert fold_affine_before(model) == 0


@pytest.mark.parametrize("bias", [True, False])
def test_a_conv_that_is_split_becomes_several(graphs, bias):
    conv = "Conv(x, w, b)" if bias else "Conv(x, w)"
    nodes = f"c = {conv} p, q, r = Split<axis=1>(c, n) s = Mul(q, r) t = Relu(p) y = Mul(s, t)"
    signature = "(float[1,4,8,8] x) => (float[1,3,8,8] y)"
    before = graphs.build(signature, nodes, w=graphs.normal(7, 4, 1, 1), b=graphs.normal(7), n=[1, 3, 3])
    model = graphs.read(before)
    assert split_layers(model) == 1
    assert graphs.ops(model)[:3] == ["Conv"] * 3 and {"p", "q", "r"} <= names(model)
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize(
    "nodes",
    [
        "c = Conv(x, w) p, q = Split<axis=2>(c, n) y = Mul(p, q)",
        "c = Conv(x, w) p, q = Split<axis=2>(c, n) m = Mul(p, q) r = ReduceMax(c) y = Mul(m, r)",
        "c = Conv<group=2>(x, g) p, q = Split<axis=1>(c, n) y = Mul(p, q)",
    ],
)
def test_another_split_stays(graphs, nodes):
    before = graphs.build(
        "(float[1,4,8,8] x) => (float[a,b,c,d] y)",
        nodes,
        w=graphs.normal(8, 4, 1, 1),
        g=graphs.normal(8, 2, 1, 1),
        n=[4, 4],
    )
    model = graphs.read(before)
    assert split_layers(model) == 0 and "Split" in graphs.ops(model)


def test_constants_no_ops_and_batch_norms_are_tidied(graphs):
    nodes = """
        one = Constant<value = float {1.0}>() i = Identity(x) u = Mul(i, one) c = Conv(u, w)
        n = BatchNormalization(c, g, b, m, v) e = Expand(t, sizes) y = Add(n, e)
    """
    constants = {"g": graphs.normal(6), "b": graphs.normal(6), "m": graphs.normal(6), "v": graphs.normal(6) ** 2}
    before = graphs.build(
        IMAGE, nodes, w=graphs.normal(6, 4, 1, 1), t=graphs.normal(1, 6, 1, 1), sizes=[1, 6, 8, 8], **constants
    )
    model = graphs.read(before)
    assert tidy(model) >= 4 and graphs.ops(model) == ["Conv", "Add"]
    assert graphs.difference(before, model) < CLOSE


def test_nobody_keeps_a_graph_that_was_tidied(graphs):
    model = graphs.read(graphs.build(IMAGE, "c = Conv(x, w) y = Relu(c)", w=graphs.normal(6, 4, 1, 1)))
    tidy(model)
    left = weakref.ref(model.graph)
    del model
    gc.collect()
    assert left() is None


def test_a_tidy_graph_stays(graphs):
    before = graphs.build(IMAGE, "c = Conv(x, w) y = Relu(c)", w=graphs.normal(6, 4, 1, 1))
    model = graphs.read(before)
    assert tidy(model) == 0 and graphs.ops(model) == ["Conv", "Relu"]


def decayed(numbers):
    """``numbers`` of which every second row fell below what float32 holds as a normal number."""
    return np.where(np.arange(len(numbers)).reshape(-1, *[1] * (numbers.ndim - 1)) % 2, numbers * 1e-40, numbers)


def test_weights_that_decayed_to_subnormal_numbers_become_zero(graphs):
    nodes = "c = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(c)"
    weights, bias = decayed(graphs.normal(6, 4, 3, 3)), decayed(graphs.normal(6))
    assert 0 < np.abs(weights[1]).max() < np.finfo(np.float32).smallest_normal
    before = graphs.build(IMAGE, nodes, w=weights, b=bias)
    model = graphs.read(before)
    assert flush_subnormals(model) == 2
    left = model.graph.initializers["w"].const_value.numpy()
    assert not left[1::2].any() and (left[::2] == weights[::2]).all() and left.dtype == np.float32
    assert graphs.difference(before, model) < 1e-36
    assert flush_subnormals(model) == 0


def test_a_small_number_that_keeps_a_divisor_from_zero_stays(graphs):
    least = np.full((1, 6, 1, 1), 1e-40, dtype=np.float32)
    nodes = "c = Conv<pads=[1,1,1,1]>(x, w) n = Abs(c) d = Max(n, e) y = Div(c, d)"
    model = graphs.read(graphs.build(IMAGE, nodes, w=graphs.normal(6, 4, 3, 3), e=least))
    assert flush_subnormals(model) == 0
    assert model.graph.initializers["e"].const_value.numpy().all()


def test_a_constant_that_another_operator_reads_as_well_stays(graphs):
    tiny = np.full((6, 4, 1, 1), 1e-40, dtype=np.float32)
    nodes = "c = Conv(x, w) m = Max(w, w) s = ReduceSum(m) y = Add(c, s)"
    model = graphs.read(graphs.build(IMAGE, nodes, w=tiny))
    assert flush_subnormals(model) == 0


def test_weights_that_the_graph_gives_out_stay(graphs):
    tiny = np.full((4, 6), 1e-40, dtype=np.float32)
    model = graphs.read(graphs.build(TOKENS, "y = MatMul(x, w)", w=tiny))
    model.graph.outputs.append(model.graph.initializers["w"])
    assert flush_subnormals(model) == 0 and model.graph.initializers["w"].const_value.numpy().all()


def test_every_export_flushes_subnormal_weights(graphs):
    nodes = "m = MatMul(x, w) y = Relu(m)"
    model = graphs.read(graphs.build(TOKENS, nodes, w=decayed(graphs.normal(4, 6))))
    assert "flush_subnormals" in simplify(model)
