"""Where OpenVINO wants Q/DQ: at the inputs of every product, so that its kernels read bytes and write floats or bytes.

OpenVINO's low-precision transformations move each quantization back into the operator that produced the value. A pair
at the producer, with all consumers behind it, leaves one value in memory, as bytes. What pays beside that:

- above MaxPool and reshapes, so that these move bytes;
- in some networks (ResNet), on both branches of a residual sum when one is in bytes anyway: the convolution then adds
  the other one itself;
- inside attention, at QKᵀ. Its fused kernel reads bytes only where no zero point is subtracted: Q and K are symmetric.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Literal

from medfm_compress.compress.quantization.qdq import Placement
from medfm_compress.compress.quantization.weights import attribute, is_constant, is_probability, layers

if TYPE_CHECKING:
    import onnx_ir as ir

Sums = Literal["shared", "bytes", "float"]
"""What a residual sum reads: ``shared`` the bytes of a branch that a layer reads anyway, and floats of the other one;
``bytes`` of both as soon as one is; ``float`` of both, so that rounding does not add up along the residuals."""

_MOVES_NUMBERS = ("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


def place(
    model: ir.Model,
    exclude: Collection[str] = (),
    *,
    attention: bool = True,
    probabilities: bool = False,
    sums: Sums = "float",
    reduced: bool = False,
) -> Placement:
    """Pairs on the inputs of Conv, ConvTranspose, Gemm and MatMul, and where they cost less than they save.

    Args:
        model: the float graph.
        exclude: names of nodes that stay in float.
        attention: products of two activations too, without what a softmax gives (QKᵀ, not PV).
        probabilities: what a softmax gives too (PV); faster, but most probabilities are below one step of 1/255.
        sums: what residual sums read; see `Sums`.
        reduced: 7-bit weights.
    """
    chosen = [layer for layer in layers(model.graph) if layer.name not in exclude]
    names = dict.fromkeys(_origin(layer.input) for layer in chosen)
    symmetric: set[str] = set()
    for node in _of_two_activations(model, "MatMul", exclude) if attention else ():
        inputs = [value for value in node.inputs if value is not None]
        if any(is_probability(value) for value in inputs) and not probabilities:
            continue
        names.update((value.name or "", None) for value in inputs)
        symmetric.update(value.name or "" for value in inputs if not is_probability(value))
    results = {layer.node.outputs[0].name for layer in chosen}
    for node in _of_two_activations(model, "Add", exclude) if sums == "bytes" else ():
        inputs = [value for value in node.inputs if value is not None]
        origins = [_origin(value) for value in inputs]
        if any(origin in names for origin in origins) or all(origin in results for origin in origins):
            names.update(dict.fromkeys(origins))
    return Placement(
        activations=tuple(names),
        layers=tuple(layer.name for layer in chosen),
        floats=frozenset(exclude).union(_names_of(model, "Add") if sums == "float" else ()),
        symmetric=frozenset(symmetric),
        reduced=reduced,
    )


def _names_of(model: ir.Model, operator: str) -> list[str]:
    return [node.name or "" for node in model.graph if node.op_type == operator]


def _of_two_activations(model: ir.Model, operator: str, exclude: Collection[str]) -> Iterator[ir.Node]:
    for node in model.graph:
        constants = any(is_constant(value) for value in node.inputs)
        if node.op_type == operator and node.name not in exclude and not constants:
            yield node


def _moves_numbers(node: ir.Node) -> bool:
    return node.op_type in _MOVES_NUMBERS or (
        node.op_type == "Resize" and attribute(node, "mode", "nearest") == "nearest"
    )


def _is_turned(value: ir.Value) -> bool:
    """A pair right behind a Transpose is moved above it, and turning bytes takes longer than turning floats."""
    producer = value.producer()
    return producer is not None and producer.op_type == "Transpose"


def _origin(value: ir.Value) -> str:
    """The value that holds the same numbers before operators that only move them, where nothing else reads it."""
    producer = value.producer()
    while producer is not None and _moves_numbers(producer):
        before = producer.inputs[0]
        if before is None or len(before.uses()) > 1 or is_constant(before) or _is_turned(before):
            break
        value, producer = before, before.producer()
    return value.name or ""
