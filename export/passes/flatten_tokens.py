"""Keep tokens in two axes, reshaped only where a block begins or ends.

    [n, tokens, channels], [n, H, W, channels]  →  [all tokens, channels]

A MatMul on two axes is a Gemm, which ONNX Runtime has a fused and a quantized kernel for. A value keeps its name and
its numbers; where both forms are needed, the other one says in its metadata which value it is the same as.
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import TYPE_CHECKING

from medfm_compress.export.passes.graph import (
    SAME_AS,
    add_constant,
    add_shape,
    attribute,
    constant,
    graph_of,
    insert,
    maker,
    set_integer,
    shaped,
    static_shape,
)

if TYPE_CHECKING:
    import onnx_ir as ir

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Gelu", "Relu", "Sigmoid", "Tanh", "Erf", "HardSwish")


def flatten_tokens(model: ir.Model) -> int:
    """Rewrite in place; how many nodes now work on two axes. Nothing is done without a MatMul by a constant."""
    made: dict[ir.Value, None] = {}
    region: dict[ir.Node, None] = {}
    for node in model.graph:
        if _flattens(node, made):
            region[node] = made[node.outputs[0]] = None
    if not any(node.op_type == "MatMul" for node in region) or any(v.is_graph_output() for v in made):
        return 0
    flat: dict[ir.Value, ir.Value] = {}
    for node in region:
        if node.op_type == "LayerNormalization":
            set_integer(node, "axis", -1)
        for index, value in enumerate(node.inputs):
            if value is not None and value not in made:
                node.replace_input_with(index, _flat(node, value, flat, made))
    for node in region:
        _restore(node, region)
    return len(region)


def _flattens(node: ir.Node, made: Collection[ir.Value]) -> bool:
    """It works on each token by itself, and says the same of two axes; images with channels in front have no tokens.

    Args:
        node: any.
        made: results of nodes before it that do.
    """
    shape = static_shape(node.outputs[0])
    if node.domain != "" or shape is None or len(shape) < 3:
        return False
    if node.op_type == "MatMul":
        weight = constant(node.inputs[1])
        return weight is not None and weight.ndim == 2
    if node.op_type == "LayerNormalization":
        return attribute(node, "axis", -1) in (-1, len(shape) - 1) and len(node.outputs) == 1
    if len(shape) > 3 and not any(value in made or _viewed(value, made) for value in node.inputs):
        return False
    return node.op_type in _ELEMENTWISE and all(_fits(value, shape) for value in node.inputs)


def _fits(value: ir.Value | None, shape: tuple[int, ...]) -> bool:
    """An operand as large as the result, or a constant that is, or that is the same for all tokens."""
    numbers = constant(value)
    if numbers is None:
        return static_shape(value) == shape
    return numbers.size == prod(shape) or prod(numbers.shape[:-1]) == 1


def _flat(node: ir.Node, value: ir.Value, flat: dict[ir.Value, ir.Value], made: Collection[ir.Value]) -> ir.Value:
    """``value`` from outside, on two axes; a constant that is the same for all tokens on one at most."""
    shape = static_shape(value) or ()
    numbers = constant(value)
    if numbers is not None and prod(shape[:-1]) == 1:
        return value if len(shape) < 3 else add_constant(graph_of(node), f"{value.name}_flat", numbers.reshape(-1))
    if len(shape) < 3:
        return value
    if value not in flat:
        rows = (prod(shape[:-1]), shape[-1])
        if numbers is not None:
            flat[value] = add_constant(graph_of(node), f"{value.name}_flat", numbers.reshape(rows))
        else:
            flat[value] = _viewed(value, made) or _reshape(node, value, rows, f"{value.name}_flat")
    return flat[value]


def _viewed(value: ir.Value | None, made: Collection[ir.Value]) -> ir.Value | None:
    """What on two axes ``value`` is only another view of."""
    channels = (static_shape(value) or (0,))[-1]
    while (view := maker(value, "Reshape")) is not None and view.inputs[0] is not None:
        value = view.inputs[0]
        if (static_shape(value) or (0,))[-1] != channels:
            return None
        if value in made:
            return value
    return None


def _restore(node: ir.Node, region: Collection[ir.Node]) -> None:
    """Give those outside the region three axes again."""
    import onnx_ir as ir

    output = node.outputs[0]
    shape = static_shape(output) or ()
    outside = [use for use in output.uses() if use[0] not in region]
    output.shape = ir.Shape((prod(shape[:-1]), shape[-1]))
    if not outside:
        return
    back = _reshape(_next(node), output, shape, f"{output.name}_tokens")
    for user, index in outside:
        user.replace_input_with(index, back)


def _next(node: ir.Node) -> ir.Node:
    """The node behind ``node`` in the graph; there is one, since something outside reads its output."""
    nodes = graph_of(node)
    return nodes[nodes.index(node) + 1]


def _reshape(before: ir.Node, value: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
    made = insert(before, "Reshape", [value, add_shape(graph_of(before), shape)], name)
    made.metadata_props[SAME_AS] = value.name or ""
    return shaped(made, shape, value)
