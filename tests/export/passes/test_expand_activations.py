"""HardSwish and Mish as products: the same numbers, other operators, and nothing where there is nothing."""

from __future__ import annotations

import pytest

from medfm_compress.export.passes.expand_activations import expand_activations

SIGNATURE = "(float[2, 3, 4, 4] image) => (float[2, 3, 4, 4] logits)"


@pytest.mark.parametrize("op_type", ["HardSwish", "Mish"])
def test_it_computes_the_same(graphs, op_type):
    content = graphs.build(SIGNATURE, f"[one] x = {op_type}(image) [two] logits = {op_type}(x)")
    model = graphs.read(content)
    assert expand_activations(model) == 2
    assert op_type not in graphs.ops(model)
    assert graphs.difference(content, model) < 1e-6


def test_what_is_kept_stays(graphs):
    model = graphs.read(graphs.build(SIGNATURE, "[one] x = HardSwish(image) [two] logits = HardSwish(x)"))
    assert expand_activations(model, keep=["two"]) == 1
    assert graphs.ops(model).count("HardSwish") == 1


def test_other_activations_stay(graphs):
    content = graphs.build(SIGNATURE, "x = Relu(image) logits = HardSigmoid(x)")
    model = graphs.read(content)
    assert expand_activations(model) == 0
    assert graphs.bytes(model) == graphs.bytes(graphs.read(content))
