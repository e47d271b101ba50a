"""Where OpenVINO wants Q/DQ: at the inputs of every product, so that its kernels read bytes and write floats or bytes.

OpenVINO's low-precision transformations move each quantization back into the operator that produced the value, past
ReLU, pooling, concatenation and reshapes; what cannot move stays at the product's input. A pair at the producer with
all consumers behind it leaves one value in memory, as bytes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from medfm_compress.compress.int8.qdq import Placement
from medfm_compress.compress.int8.weights import is_constant, layers

if TYPE_CHECKING:
    import onnx_ir as ir


def place(
    model: ir.Model,
    exclude: Collection[str] = (),
    *,
    attention: bool = True,
    adds: bool = False,
    reduced: bool = False,
) -> Placement:
    """Pairs on the inputs of Conv, ConvTranspose, Gemm and MatMul with constant weights.

    Args:
        model: the float graph.
        exclude: names of layers that stay in float.
        attention: the inputs of products of two activations (QKᵀ and PV) too.
        adds: the inputs of sums of two activations too.
        reduced: 7-bit weights.
    """
    chosen = [layer for layer in layers(model.graph) if layer.name not in exclude]
    names = dict.fromkeys(layer.input.name or "" for layer in chosen)
    for node in model.graph:
        two = _takes_two_activations(node) and node.name not in exclude
        if two and ((node.op_type == "MatMul" and attention) or (node.op_type == "Add" and adds)):
            names.update(dict.fromkeys(value.name or "" for value in node.inputs if value is not None))
    return Placement(
        activations=tuple(names),
        layers=tuple(layer.name for layer in chosen),
        floats=frozenset(exclude),
        reduced=reduced,
    )


def _takes_two_activations(node: ir.Node) -> bool:
    return len(node.inputs) == 2 and not any(is_constant(value) for value in node.inputs)
