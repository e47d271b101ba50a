"""What nodes that only move numbers do, tried on an array: positions sent through them say where each number goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from medfm_compress.export.passes.graph import attribute, constant, maker, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

_LAYOUT = ("Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze")


def mover(value: ir.Value | None) -> ir.Node | None:
    """The node that makes ``value`` if it only moves numbers, and to where is known beforehand."""
    node = maker(value, *_LAYOUT)
    if node is None or any(static_shape(value) is None for value in (node.inputs[0], *node.outputs)):
        return None
    computed = any(constant(value) is None for value in node.inputs[1:] if value is not None)
    return None if node.op_type == "Slice" and computed else node


def replay(node: ir.Node, output: ir.Value, array: NDArray[Any]) -> NDArray[Any]:
    """Apply a layout node (see `mover`) to an array of its input's shape."""
    shape = static_shape(output)
    if node.op_type == "Transpose":
        return array.transpose(attribute(node, "perm", tuple(reversed(range(array.ndim)))))
    if node.op_type == "Slice":
        return array[_slices(node, array.ndim)]
    if node.op_type == "Split":
        axis = attribute(node, "axis", 0)
        sizes = [(static_shape(value) or (0,) * array.ndim)[axis] for value in node.outputs]
        number = [value is output for value in node.outputs].index(True)
        start = sum(sizes[:number])
        return array.take(range(start, start + sizes[number]), axis)
    return array.reshape(shape or ())


def _slices(node: ir.Node, rank: int) -> tuple[slice, ...]:
    starts, ends = constant(node.inputs[1]), constant(node.inputs[2])
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    steps = constant(node.inputs[4]) if len(node.inputs) > 4 else None
    cut = [slice(None)] * rank
    if starts is None or ends is None:
        raise ValueError(f"the bounds of {node.name} are computed")  # `mover` refuses it
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        cut[number if axes is None else axes[number]] = slice(start, end, 1 if steps is None else steps[number])
    return tuple(cut)
