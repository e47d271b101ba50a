"""Fold what scales and shifts a layer's output channels into the layer: LayerScale, an exported BatchNorm, a bias.

Mul(Conv(x), s) → Conv'(x), and so for Div, Add, Sub by constants, behind Conv, Gemm, MatMul (+ Add)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.export.passes.graph import reads_alone, take_over
from medfm_compress.export.passes.layers import Layer, Vector, channel_vector, layer_behind, scale_outputs

if TYPE_CHECKING:
    import onnx_ir as ir

_AFFINE = ("Mul", "Div", "Add", "Sub")


def fold_affine_after(model: ir.Model) -> int:
    """Fold in place; how many nodes went."""
    return sum(_fold(node) for node in tuple(model.graph) if node.domain == "" and node.op_type in _AFFINE)


def _fold(node: ir.Node) -> bool:
    for index in (0, 1) if node.op_type in ("Mul", "Add") else (0,):
        value, other = node.inputs[index], node.inputs[1 - index]
        layer = None if value is None else layer_behind(value)
        if layer is None or not reads_alone(node, layer.output):
            continue
        vector = _vector(layer, other)
        if vector is not None and np.all(np.isfinite(vector)) and (node.op_type != "Div" or np.all(vector)):
            _apply(layer, node.op_type, vector)
            take_over(node.outputs[0], node.inputs[index])  # a bias that is new stands there by now
            return True
    return False


def _vector(layer: Layer, other: ir.Value | None) -> Vector | None:
    shape = layer.output.shape
    return None if shape is None else channel_vector(other, len(shape), layer.axis, layer.channels)


def _apply(layer: Layer, op_type: str, vector: Vector) -> None:
    ones = np.ones(layer.channels, dtype=np.float32)
    if op_type in ("Mul", "Div"):
        scale_outputs(layer, vector if op_type == "Mul" else ones / vector)
    else:
        scale_outputs(layer, ones, vector if op_type == "Add" else -vector)
