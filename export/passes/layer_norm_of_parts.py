"""Layer normalization that an exporter wrote out, as the one operator that ONNX has for it since opset 17.

    y = (x − mean(x)) / √(mean((x − mean(x))²) + ε)

over the last axes; y · γ + β follows where it was written out as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import (
    add_constant,
    attribute,
    constant,
    graph_of,
    insert,
    maker,
    only_user,
    static_shape,
    take_over,
)

if TYPE_CHECKING:
    import onnx_ir as ir

LEAST_OPSET = 17


def layer_norm_of_parts(model: ir.Model) -> int:
    """Fuse in place; how many were."""
    if model.opset_imports.get("", 0) < LEAST_OPSET:
        return 0
    return sum(_fuse(node) for node in tuple(model.graph) if node.domain == "" and node.op_type == "Div")


def _fuse(quotient: ir.Node) -> bool:
    centred, deviation = quotient.inputs
    source, axes = _centred(centred)
    epsilon = _epsilon(deviation, centred, axes)
    shape = static_shape(source)
    if source is None or epsilon is None or shape is None or axes != tuple(range(len(shape)))[-len(axes) :]:
        return False
    normalised = shape[axes[0] :]
    output, scale = _applied(quotient.outputs[0], "Mul", normalised)
    output, shift = _applied(output, "Add", normalised)
    last = output.producer()
    assert last is not None  # noqa: S101 - a Div, Mul or Add
    graph, name = graph_of(quotient), output.name
    inputs = [source, add_constant(graph, f"{name}_scale", np.ones(normalised, np.float32) if scale is None else scale)]
    inputs += [] if shift is None else [add_constant(graph, f"{name}_shift", shift)]
    attributes = {"axis": axes[0] - len(shape), "epsilon": epsilon}
    take_over(output, insert(last, "LayerNormalization", inputs, f"{name}_norm", attributes))
    return True


def _applied(value: ir.Value, op_type: str, shape: tuple[int, ...]) -> tuple[ir.Value, NDArray[Any] | None]:
    """What comes of ``value`` and a constant ``shape`` in an operator that alone reads it; ``value`` without one."""
    node = only_user(value)
    if node is None or node.domain or node.op_type != op_type:
        return value, None
    known = constant(node.inputs[1] if node.inputs[0] is value else node.inputs[0])
    if known is None or known.ndim > len(static_shape(value) or ()) or known.shape[-len(shape) :] != shape:
        return value, None
    return (node.outputs[0], known.reshape(shape)) if known.size == np.prod(shape) else (value, None)


def _centred(value: ir.Value | None) -> tuple[ir.Value | None, tuple[int, ...]]:
    """X and the axes, where ``value`` is x − mean(x)."""
    difference = maker(value, "Sub")
    if difference is None:
        return None, ()
    source, subtracted = difference.inputs
    mean = maker(subtracted, "ReduceMean")
    if source is None or mean is None or mean.inputs[0] is not source:
        return None, ()
    return source, _axes(mean, source)


def _epsilon(deviation: ir.Value | None, centred: ir.Value | None, axes: tuple[int, ...]) -> float | None:
    """ε, where ``deviation`` is √(mean(centred²) + ε) over the same axes."""
    root = maker(deviation, "Sqrt")
    total = maker(root.inputs[0], "Add") if root is not None else None
    if total is None or not axes:
        return None
    variance, added = total.inputs if constant(total.inputs[1]) is not None else total.inputs[::-1]
    mean, epsilon = maker(variance, "ReduceMean"), constant(added)
    if mean is None or epsilon is None or epsilon.size != 1 or _axes(mean, mean.inputs[0]) != axes:
        return None
    return float(epsilon.reshape(())) if _is_square(mean.inputs[0], centred) else None


def _is_square(value: ir.Value | None, of: ir.Value | None) -> bool:
    square = maker(value, "Mul", "Pow")
    if square is None or square.inputs[0] is not of:
        return False
    if square.op_type == "Mul":
        return square.inputs[1] is of
    power = constant(square.inputs[1])
    return power is not None and power.size == 1 and float(power.reshape(())) == 2


def _axes(mean: ir.Node, source: ir.Value | None) -> tuple[int, ...]:
    """The axes of a mean that keeps them, counted from the front; an attribute up to opset 17, an input since."""
    shape = static_shape(source)
    axes = constant(mean.inputs[1]) if len(mean.inputs) > 1 else attribute(mean, "axes", None)
    if shape is None or axes is None or not attribute(mean, "keepdims", 1):
        return ()
    return tuple(sorted(int(axis) % len(shape) for axis in axes))
