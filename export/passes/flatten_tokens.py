"""Keep tokens in few axes, reshaped only where a block begins or ends.

    flatten_tokens        [n, tokens, channels], [n, H, W, channels]  →  [all tokens, channels]
    tokens_on_three_axes  [n, H, W, channels]  →  [n, H * W, channels]

A MatMul on two axes is a Gemm, which ONNX Runtime has a fused and a quantized kernel for. OpenVINO has a kernel for
LayerNorm on three axes, not on four, and fuses behind a MatMul on three what it leaves apart on four. A value keeps its
name and its numbers; where both forms are needed, the other one says in its metadata which value it is the same as.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import prod
from typing import TYPE_CHECKING, NamedTuple

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


Shape = tuple[int, ...]


class _Form(NamedTuple):
    """Which values are changed, from how many axes on, and into which shape."""

    least_axes: int
    leading: int  # axes that stay in front

    def of(self, shape: Shape) -> Shape:
        """The shape of a value in this form."""
        return (*shape[: self.leading], prod(shape[self.leading : -1]), shape[-1])


def flatten_tokens(model: ir.Model) -> int:
    """Rewrite in place; how many nodes now work on two axes. Nothing is done without a MatMul by a constant."""
    return _rewrite(model, _Form(least_axes=3, leading=0), ("MatMul",))


def tokens_on_three_axes(model: ir.Model) -> int:
    """Rewrite in place; how many nodes now work on three axes instead of more."""
    return _rewrite(model, _Form(least_axes=4, leading=1), ("MatMul", "LayerNormalization"))


def _rewrite(model: ir.Model, form: _Form, wanted: Collection[str]) -> int:
    made: dict[ir.Value, None] = {}
    region: dict[ir.Node, None] = {}
    for node in model.graph:
        if len(static_shape(node.outputs[0]) or ()) >= form.least_axes and _flattens(node, made):
            region[node] = made[node.outputs[0]] = None
    if not any(node.op_type in wanted for node in region) or any(v.is_graph_output() for v in made):
        return 0
    flat: dict[ir.Value, ir.Value] = {}
    for node in region:
        if node.op_type == "LayerNormalization":
            set_integer(node, "axis", -1)
        for index, value in enumerate(node.inputs):
            if value is not None and value not in made:
                node.replace_input_with(index, _flat(node, value, flat, made, form))
    for node in region:
        _restore(node, region, form)
    return len(region)


def _flattens(node: ir.Node, made: Collection[ir.Value]) -> bool:
    """It works on each token by itself, and says the same of two axes; images with channels in front have no tokens.

    Args:
        node: any.
        made: results of nodes before it that do.
    """
    shape = static_shape(node.outputs[0])
    if node.domain != "" or shape is None:
        return False
    if node.op_type == "MatMul":
        weight = constant(node.inputs[1])
        return weight is not None and weight.ndim == 2
    if node.op_type == "LayerNormalization":
        return attribute(node, "axis", -1) in (-1, len(shape) - 1) and len(node.outputs) == 1
    if len(shape) > 3 and not _touches(node, made):
        return False
    return node.op_type in _ELEMENTWISE and all(_fits(value, shape) for value in node.inputs)


def _fits(value: ir.Value | None, shape: tuple[int, ...]) -> bool:
    """An operand as large as the result, or a constant that is, or that is the same for all tokens."""
    numbers = constant(value)
    if numbers is None:
        return static_shape(value) == shape
    return numbers.size == prod(shape) or prod(numbers.shape[:-1]) == 1


def _flat(
    node: ir.Node, value: ir.Value, flat: dict[ir.Value, ir.Value], made: Collection[ir.Value], form: _Form
) -> ir.Value:
    """``value`` from outside in this form; a constant that is the same for all tokens on one axis at most."""
    shape = static_shape(value) or ()
    numbers = constant(value)
    if len(shape) < form.least_axes:
        return value
    if numbers is not None and prod(shape[:-1]) == 1:
        return add_constant(graph_of(node), f"{value.name}_flat", numbers.reshape(-1))
    if value not in flat:
        wanted = form.of(shape)
        if numbers is not None:
            flat[value] = add_constant(graph_of(node), f"{value.name}_flat", numbers.reshape(wanted))
        else:
            viewed = _viewed(value, made, wanted, form)
            flat[value] = viewed or _reshape(node, _origin(value), wanted, f"{value.name}_flat")
    return flat[value]


def _origin(value: ir.Value) -> ir.Value:
    """What ``value`` was reshaped from, so that no view of a view is left."""
    while (view := maker(value, "Reshape")) is not None and view.inputs[0] is not None:
        value = view.inputs[0]
    return value


def _viewed(value: ir.Value, made: Collection[ir.Value], wanted: Shape, form: _Form) -> ir.Value | None:
    """What in the wanted shape ``value`` is only another view of."""
    while (view := maker(value, "Reshape")) is not None and view.inputs[0] is not None:
        value = view.inputs[0]
        shape = static_shape(value) or ()
        if shape == wanted or (value in made and form.of(shape) == wanted):
            return value
    return None


def _touches(node: ir.Node, made: Collection[ir.Value]) -> bool:
    """It reads what a node of the region makes, or another view of it with the same channels."""
    return any(value is not None and any(view in made for view in _views(value)) for value in node.inputs)


def _views(value: ir.Value) -> Iterator[ir.Value]:
    """The value, and what it is a view of with the same channels."""
    channels = (static_shape(value) or (0,))[-1]
    viewed: ir.Value | None = value
    while viewed is not None and (static_shape(viewed) or (0,))[-1] == channels:
        yield viewed
        view = maker(viewed, "Reshape")
        viewed = None if view is None else view.inputs[0]


def _restore(node: ir.Node, region: Collection[ir.Node], form: _Form) -> None:
    """Give those outside the region the axes they had; a Reshape that says its sizes in full reads any."""
    import onnx_ir as ir

    output = node.outputs[0]
    shape = static_shape(output) or ()
    outside = [use for use in output.uses() if use[0] not in region and not _says_sizes(use[0])]
    output.shape = ir.Shape(form.of(shape))
    if not outside:
        return
    back = _reshape(
        _next(node), output, shape, f"{output.name}_tokens" if form.leading == 0 else f"{output.name}_image"
    )
    for user, index in outside:
        user.replace_input_with(index, back)


def _says_sizes(node: ir.Node) -> bool:
    sizes = constant(node.inputs[1]) if node.domain == "" and node.op_type == "Reshape" else None
    return sizes is not None and bool((sizes != 0).all())


def _next(node: ir.Node) -> ir.Node:
    """The node behind ``node`` in the graph; there is one, since something outside reads its output."""
    nodes = graph_of(node)
    return nodes[nodes.index(node) + 1]


def _reshape(before: ir.Node, value: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
    made = insert(before, "Reshape", [value, add_shape(graph_of(before), shape)], name)
    made.metadata_props[SAME_AS] = value.name or ""
    return shaped(made, shape, value)
