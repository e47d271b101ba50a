"""Add a constant on the axes that a value has before and after, not on those of a view made for it.

    Reshape(Reshape(x) + c) with the axes of x  →  x + c',    c' = c broadcast, reshaped, and no larger than it must be

Windowed attention adds its mask so, ``[windows, 1, tokens, tokens]`` after the biases of positions ``[1, heads, …]``.
Engines fuse attention only where nothing but such sums stands between product and softmax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import (
    add_constant,
    constant,
    graph_of,
    maker,
    only_user,
    static_shape,
    take_over,
)

if TYPE_CHECKING:
    import onnx_ir as ir

_LARGEST = 2**24  # numbers in a constant before it is made small again


def add_without_reshapes(model: ir.Model) -> int:
    """Rewrite in place; how many sums were."""
    return sum(_rewrite(node) for node in tuple(model.graph) if node.domain == "" and node.op_type == "Add")


def _rewrite(add: ir.Node) -> bool:
    constants = [constant(value) for value in add.inputs]
    index = next((i for i, numbers in enumerate(constants) if numbers is not None), None)
    if index is None or constants[1 - index] is not None:
        return False
    there = maker(add.inputs[1 - index], "Reshape")
    back = only_user(add.outputs[0])
    if there is None or back is None:
        return False
    value, numbers = there.inputs[0], constants[index]
    shape, viewed, result = static_shape(value), static_shape(add.outputs[0]), static_shape(back.outputs[0])
    if value is None or numbers is None or shape is None or viewed is None:
        return False
    fits = shape == result and static_shape(there.outputs[0]) == viewed and np.prod(shape) <= _LARGEST
    if not fits or back.op_type != "Reshape" or only_user(there.outputs[0]) is not add:
        return False
    moved = _smallest(np.broadcast_to(numbers, viewed).reshape(shape))
    if moved.size > np.prod(shape) // 2:
        return False
    _replace(add, back, value, moved)
    graph_of(there).remove(there, safe=True)
    return True


def _smallest(numbers: NDArray[Any]) -> NDArray[Any]:
    """Without the axes along which the numbers only repeat."""
    for axis in range(numbers.ndim):
        first = numbers.take([0], axis)
        if numbers.shape[axis] > 1 and np.array_equal(np.broadcast_to(first, numbers.shape), numbers):
            numbers = first
    return numbers


def _replace(add: ir.Node, back: ir.Node, value: ir.Value, numbers: NDArray[Any]) -> None:
    """``value`` plus the constant, by a node and under a name that the graph has already."""
    import onnx_ir as ir

    graph = graph_of(add)
    term = add_constant(graph, f"{add.name}_on_these_axes", np.ascontiguousarray(numbers))
    new = ir.node("Add", [value, term], name=add.name)
    graph.insert_before(add, new)
    take_over(back.outputs[0], new.outputs[0])
    graph.remove(add, safe=True)
