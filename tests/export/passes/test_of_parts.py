"""GELU and layer normalization that were written out become one operator each, and the graph computes the same."""

import numpy as np
import pytest

from medfm_compress.export.passes.gelu_of_parts import gelu_of_parts
from medfm_compress.export.passes.graph import remove_unused
from medfm_compress.export.passes.layer_norm_of_parts import layer_norm_of_parts
from medfm_compress.export.passes.pipeline import simplify

CLOSE = 1e-5
ENDS = "(float[1,5,4] x) => (float[1,5,4] y)"
ROOT, HALF, ONE, TWO = (np.float32(value) for value in (1.4142135, 0.5, 1.0, 2.0))
GELUS = {
    "half at last": "d = Div(x, r) e = Erf(d) a = Add(e, o) m = Mul(x, a) y = Mul(m, h)",
    "half first": "d = Div(x, r) e = Erf(d) a = Add(o, e) m = Mul(a, h) y = Mul(x, m)",
    "half of x": "d = Div(x, r) e = Erf(d) a = Add(e, o) m = Mul(h, x) y = Mul(m, a)",
    "a product in place of the quotient": "d = Mul(i, x) e = Erf(d) a = Add(e, o) m = Mul(x, a) y = Mul(m, h)",
}
OTHERS = {
    "another scale": "d = Div(x, t) e = Erf(d) a = Add(e, o) m = Mul(x, a) y = Mul(m, h)",
    "not halved": "d = Div(x, r) e = Erf(d) a = Add(e, o) m = Mul(x, a) y = Mul(m, t)",
    "halved twice": "d = Div(x, r) e = Erf(d) a = Add(e, o) m = Mul(a, h) n = Mul(m, h) y = Mul(n, x)",
    "another addend": "d = Div(x, r) e = Erf(d) a = Add(e, h) m = Mul(x, a) y = Mul(m, h)",
    "erf alone": "d = Div(x, r) e = Erf(d) y = Add(e, o)",
    "a part that is read twice": "d = Div(x, r) e = Erf(d) a = Add(e, o) m = Mul(x, a) n = Mul(m, h) y = Add(n, a)",
}
CENTRED = "m = ReduceMean(x, ax) c = Sub(x, m) s = {square} v = ReduceMean(s, ax) w = Add(v, eps) r = Sqrt(w)"
NORM = f"{CENTRED} y = Div(c, r)"
SQUARES = ("Pow(c, t)", "Mul(c, c)")


def scalars():
    return {"r": ROOT, "i": np.float32(1 / ROOT), "h": HALF, "o": ONE, "t": TWO}


def norm(graphs, text, axes=(-1,)):
    return graphs.build(ENDS, text, ax=np.array(axes, np.int64), t=TWO, eps=np.float32(1e-5))


@pytest.mark.parametrize("nodes", GELUS.values(), ids=GELUS)
def test_gelu_is_found_in_whichever_order_it_was_written(graphs, nodes):
    before = graphs.build(ENDS, nodes, **scalars())
    model = graphs.read(before)
    assert "gelu_of_parts" in simplify(model) and graphs.ops(model) == ["Gelu"]
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize("nodes", OTHERS.values(), ids=OTHERS)
def test_what_is_no_gelu_stays(graphs, nodes):
    model = graphs.read(graphs.build(ENDS, nodes, **scalars()))
    before = graphs.ops(model)
    assert gelu_of_parts(model) == 0 and graphs.ops(model) == before


def test_an_opset_without_the_operators_keeps_the_parts(graphs):
    model = graphs.read(graphs.build(ENDS, GELUS["half at last"], **scalars()))
    model.opset_imports[""] = 19
    assert gelu_of_parts(model) == 0
    model.opset_imports[""] = 16
    assert layer_norm_of_parts(model) == 0


@pytest.mark.parametrize("square", SQUARES)
@pytest.mark.parametrize("axes", [(-1,), (2,), (1, 2), (-1, -2)])
def test_layer_norm_over_the_last_axes_is_one_operator(graphs, square, axes):
    before = norm(graphs, NORM.format(square=square), axes)
    model = graphs.read(before)
    assert "layer_norm_of_parts" in simplify(model) and graphs.ops(model) == ["LayerNormalization"]
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize(
    ("shape", "left"), [((4,), []), ((1, 1, 4), []), ((5, 1), ["Mul", "Add"]), ((), ["Mul", "Add"])]
)
def test_scale_and_shift_of_the_channels_belong_to_it(graphs, shape, left):
    text = f"{CENTRED} q = Div(c, r) g = Mul(scale, q) y = Add(g, shift)".format(square="Mul(c, c)")
    numbers = {"scale": graphs.normal(*shape), "shift": graphs.normal(*shape)}
    before = graphs.build(ENDS, text, ax=np.array([-1], np.int64), eps=np.float32(1e-5), **numbers)
    model = graphs.read(before)
    assert layer_norm_of_parts(model) == 1
    remove_unused(model)
    assert graphs.ops(model) == ["LayerNormalization", *left]
    assert graphs.difference(before, model) < CLOSE


@pytest.mark.parametrize(
    ("old", "new", "axes"),
    [
        ("", "", (1,)),
        ("Sub(x, m)", "Sub(m, x)", (-1,)),
        ("Pow(c, t)", "Pow(c, eps)", (-1,)),
        ("Pow(c, t)", "Mul(c, x)", (-1,)),
        ("ReduceMean(s, ax)", "ReduceMean<keepdims=0>(s, other)", (-1,)),
        ("Div(c, r)", "Div(x, r)", (-1,)),
    ],
)
def test_what_is_no_layer_norm_stays(graphs, old, new, axes):
    text = NORM.format(square="Pow(c, t)").replace(old, new)
    before = graphs.build(
        ENDS, text, ax=np.array(axes, np.int64), other=np.array([0], np.int64), t=TWO, eps=np.float32(1e-5)
    )
    model = graphs.read(before)
    assert layer_norm_of_parts(model) == 0 and "LayerNormalization" not in graphs.ops(model)
