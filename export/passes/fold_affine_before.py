"""Fold what scales and shifts a layer's input channels into the layer: the affine part of a GroupNorm, of a BatchNorm.

    Conv(s * x + t) → Conv'(x), and so for MatMul and Gemm, where every reader of s * x + t is such a layer

A shift needs a Conv without padding: a padded zero is not shifted. What the readers see is then normalised, so
that an outlier channel of s is in the weights, which are quantized per channel, and no more in the activations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.export.passes.graph import attribute, graph_of, static_shape
from medfm_compress.export.passes.layers import Layer, Vector, channel_vector, layer_of, scale_inputs

if TYPE_CHECKING:
    import onnx_ir as ir

_SCALES, _SHIFTS = ("Mul", "Div"), ("Add", "Sub", "BatchNormalization")


def fold_affine_before(model: ir.Model) -> int:
    """Fold in place; how many nodes went. Nodes are visited last first, so that Add goes before the Mul behind it."""
    operators = (*_SCALES, *_SHIFTS)
    return sum(_fold(node) for node in reversed(tuple(model.graph)) if node.domain == "" and node.op_type in operators)


def _fold(node: ir.Node) -> bool:
    output = node.outputs[0]
    layers = _readers(output, shifted=node.op_type in _SHIFTS)
    shape = static_shape(output)
    if not layers or shape is None or len({layer.axis for layer in layers}) > 1:
        return False
    for index in (0, 1) if node.op_type in ("Mul", "Add") else (0,):
        value = node.inputs[index]
        affine = _affine(node, 1 - index, layers[0], len(shape))
        if value is None or affine is None or static_shape(value) != shape:
            continue
        for layer in layers:
            scale_inputs(layer, *affine)
            layer.node.replace_input_with(0, value)
        graph_of(node).remove(node, safe=True)
        return True
    return False


def _readers(value: ir.Value, *, shifted: bool) -> tuple[Layer, ...]:
    """The layers that read ``value``; none if anything else does."""
    layers = [layer_of(user) if index == 0 else None for user, index in value.uses()]
    if value.is_graph_output() or not all(layer and (not shifted or _unpadded(layer)) for layer in layers):
        return ()
    return tuple(layer for layer in layers if layer is not None)


def _unpadded(layer: Layer) -> bool:
    if layer.node.op_type != "Conv":
        return True
    padding = attribute(layer.node, "auto_pad", "NOTSET")
    return padding in ("NOTSET", "VALID") and not any(attribute(layer.node, "pads", ()))


def _affine(node: ir.Node, index: int, layer: Layer, rank: int) -> tuple[Vector, Vector | None] | None:
    """Scale and shift that ``node`` applies to its input channels, where both are constant."""
    if node.op_type == "BatchNormalization":
        return _normalisation(node, layer, rank)
    vector = channel_vector(node.inputs[index], rank, layer.axis, layer.in_channels)
    if vector is None or not np.all(np.isfinite(vector)) or (node.op_type == "Div" and not np.all(vector)):
        return None
    return _as_affine(node.op_type, vector)


def _as_affine(op_type: str, vector: Vector) -> tuple[Vector, Vector | None]:
    ones = np.ones_like(vector)
    if op_type in _SCALES:
        return (vector if op_type == "Mul" else ones / vector), None
    return ones, (vector if op_type == "Add" else -vector)


def _normalisation(node: ir.Node, layer: Layer, rank: int) -> tuple[Vector, Vector] | None:
    if layer.axis != 1 and rank != 2:
        return None
    vectors = [channel_vector(value, 1, 0, layer.in_channels) for value in node.inputs[1:5]]
    if any(vector is None for vector in vectors):
        return None
    gamma, beta, mean, variance = (np.asarray(vector, dtype=np.float64) for vector in vectors)
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, beta - mean * scale
