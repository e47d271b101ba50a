"""Elementwise operators on channels-last values, with the Transpose behind them, next to the convolution that wants it.

    f(Transpose(x), Transpose(y))  →  Transpose(f(x, y)),        Transpose back of Transpose: nothing

A block that works on ``[n, H, W, channels]`` (ConvNeXt, MetaFormer) hands its sum to the next convolution as
``[n, channels, H, W]``. In that order, engines that keep images channels-last need not move a byte for a Transpose
before or behind a convolution, and a scale a channel can be folded into the layer before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import (
    add_constant,
    attribute,
    constant,
    free_name,
    graph_of,
    insert,
    maker,
    only_user,
    remove_unused,
    shaped,
    static_shape,
)

if TYPE_CHECKING:
    import onnx_ir as ir

_TO_FIRST, _TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # channels
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Clip", "Relu", "Gelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh")


def channels_last_sums(model: ir.Model) -> int:
    """Rewrite in place; how many operators now work on channels-last values."""
    nodes = [node for node in model.graph if node.domain == "" and node.op_type in _ELEMENTWISE]
    count = sum(_rewrite(node) for node in nodes)
    if count:
        remove_unused(model)
    return count


def _rewrite(node: ir.Node) -> bool:
    output = node.outputs[0]
    shape = static_shape(output)
    if shape is None or len(shape) != 4 or output.is_graph_output():
        return False
    activations = [value for value in node.inputs if value is not None and constant(value) is None]
    if not all(static_shape(value) == shape and _may_move(value) for value in activations):
        return False
    if not any(_is_turned(value) and only_user(value) is node for value in activations):
        return False  # no Transpose would go
    for index, value in enumerate(node.inputs):
        if value is not None:
            node.replace_input_with(index, _moved(node, value))
    _restore(node, shape)
    return True


def _is_turned(value: ir.Value) -> bool:
    node = maker(value, "Transpose")
    return node is not None and tuple(attribute(node, "perm", ())) == _TO_FIRST


def _may_move(value: ir.Value) -> bool:
    """It was channels-last a moment ago, or comes from a convolution, whose result engines keep so."""
    return _is_turned(value) or maker(value, "Conv") is not None


def _moved(node: ir.Node, value: ir.Value) -> ir.Value:
    """The channels-last form of what ``node`` reads."""
    numbers = constant(value)
    if numbers is not None:
        return value if numbers.ndim == 0 else add_constant(graph_of(node), f"{value.name}_last", _turned(numbers))
    turned = maker(value, "Transpose")
    if turned is not None and turned.inputs[0] is not None:
        return turned.inputs[0]
    n, channels, height, width = static_shape(value) or (0, 0, 0, 0)
    return shaped(
        insert(node, "Transpose", [value], _name(node, f"{value.name}_last"), {"perm": _TO_LAST}),
        (n, height, width, channels),
        value,
    )


def _turned(numbers: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(numbers.reshape((1,) * (4 - numbers.ndim) + numbers.shape).transpose(_TO_LAST))


def _restore(node: ir.Node, shape: tuple[int, ...]) -> None:
    """The output's readers get it as before, or as it is now where they only turned it."""
    output = node.outputs[0]
    name, (n, channels, height, width) = output.name, shape
    readers = output.consumers()
    shaped(output, (n, height, width, channels), output)
    output.name = _name(node, f"{name}_last")
    for reader in readers:
        turns_back = reader.op_type == "Transpose" and tuple(attribute(reader, "perm", ())) == _TO_LAST
        if turns_back and not reader.outputs[0].is_graph_output():
            reader.outputs[0].replace_all_uses_with(output)
    others = [use for use in output.uses() if use.node in readers and not _goes(use.node)]
    if not others:
        return
    behind = graph_of(node)[graph_of(node).index(node) + 1]
    back = insert(behind, "Transpose", [output], _name(node, f"{name}_first"), {"perm": _TO_FIRST})
    shaped(back, shape, output).name = name
    for user, index in others:
        user.replace_input_with(index, back)


def _goes(reader: ir.Node) -> bool:
    """A Transpose that nothing reads any more."""
    result = reader.outputs[0]
    return reader.op_type == "Transpose" and not result.uses() and not result.is_graph_output()


def _name(node: ir.Node, name: str) -> str:
    graph = graph_of(node)
    return free_name(name, {output.name or "" for other in graph for output in other.outputs})
