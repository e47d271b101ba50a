"""A mean over height and width as GlobalAveragePool, which ONNX Runtime has an integer kernel for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm_compress.export.passes.graph import (
    SAME_AS,
    add_shape,
    attribute,
    constant,
    graph_of,
    insert,
    shaped,
    static_shape,
    take_over,
)

if TYPE_CHECKING:
    import onnx_ir as ir


def global_pool(model: ir.Model) -> int:
    """Rewrite in place; how many means were."""
    return sum(_rewrite(node) for node in tuple(model.graph) if node.op_type == "ReduceMean" and node.domain == "")


def _rewrite(node: ir.Node) -> bool:
    value, output = node.inputs[0], node.outputs[0]
    shape, result = static_shape(value), static_shape(output)
    if value is None or shape is None or result is None or len(shape) != 4 or _axes(node) != (2, 3):
        return False
    pooled = shaped(insert(node, "GlobalAveragePool", [value], f"{output.name}_pool"), (*shape[:2], 1, 1), output)
    if len(result) != 4:
        pooled.metadata_props[SAME_AS] = output.name or ""
        pooled = insert(node, "Reshape", [pooled, add_shape(graph_of(node), result)], f"{output.name}_flat")
    take_over(output, pooled)
    return True


def _axes(node: ir.Node) -> tuple[int, ...]:
    """The axes of a mean of four, counted from the front; an attribute up to opset 17, an input since."""
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else attribute(node, "axes", None)
    return () if axes is None else tuple(sorted(int(axis) % 4 for axis in axes))
