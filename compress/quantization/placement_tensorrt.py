"""Where TensorRT wants Q/DQ: explicitly, symmetric S8 with zero points 0, at the inputs of every product.

TensorRT's rules for explicit quantization: a layer runs in INT8 when all its inputs come from DequantizeLinear; biases
stay in float; Conv + Add fuses when the Add's *other* branch comes from a DequantizeLinear and the Conv's own result
does not.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from medfm_compress.compress.quantization.qdq import Placement
from medfm_compress.compress.quantization.weights import is_constant, layers

if TYPE_CHECKING:
    import onnx_ir as ir


def place(
    model: ir.Model, exclude: Collection[str] = (), *, attention: bool = False, reduced: bool = False, fp8: bool = False
) -> Placement:
    """Pairs on the inputs of Conv, ConvTranspose, Gemm and MatMul, and on the residual branch of sums.

    Args:
        model: the float graph.
        exclude: names of nodes that stay in float.
        attention: products of two activations (QKᵀ and PV) too.
        reduced: 7-bit weights.
        fp8: FP8 E4M3 instead of S8.
    """
    chosen = [layer for layer in layers(model.graph) if layer.name not in exclude]
    names = {layer.input.name or "": None for layer in chosen}
    results = {layer.node.outputs[0].name or "" for layer in chosen if layer.node.op_type == "Conv"}
    for node in model.graph:
        entering = [value.name or "" for value in node.inputs if value is not None and not is_constant(value)]
        if len(entering) != 2 or node.name in exclude:
            continue
        if node.op_type == "MatMul" and attention:
            names.update(dict.fromkeys(entering))
        if node.op_type == "Add" and results & set(entering):
            names[_residual(entering, results)] = None
    return Placement(
        activations=tuple(names),
        layers=tuple(layer.name for layer in chosen),
        floats=frozenset(exclude),
        signed=True,
        reduced=reduced,
        fp8=fp8,
    )


def _residual(entering: list[str], results: Collection[str]) -> str:
    """The branch that is not the Conv's result; where both are, the second."""
    first, second = entering
    return second if first in results else first
