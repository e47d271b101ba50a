"""Where ONNX Runtime wants Q/DQ: around operators, because it fuses DQ → operator → Q and nothing less for Conv.

Activations are U8 (signed ones are up to 2.4 times slower), biases int32. A ReLU or Clip between a layer and its Q
disappears, since the zero point does its work. Products of matrices need no Q behind them: they give floats to what
stays in float anyway (SiLU, GELU, softmax, LayerNorm).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from medfm_compress.compress.int8.qdq import Placement
from medfm_compress.compress.int8.weights import is_constant, layers

if TYPE_CHECKING:
    import onnx_ir as ir

_ABSORBED = ("Relu", "Clip")
_TIED = ("MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze")
_BYTES = ("Add", "AveragePool", "GlobalAveragePool", "Concat", *_TIED)


def place(
    model: ir.Model,
    exclude: Collection[str] = (),
    *,
    reduced: bool = False,
) -> Placement:
    """Pairs around every layer with constant weights and around what passes bytes on between them.

    Args:
        model: the float graph.
        exclude: names of layers that stay in float.
        reduced: 7-bit weights.
    """
    chosen = [
        layer for layer in layers(model.graph) if layer.node.op_type != "ConvTranspose" and layer.name not in exclude
    ]
    names: dict[str, None] = {}
    ties: list[tuple[str, str]] = []
    for layer in chosen:
        names[layer.input.name or ""] = None
        if layer.node.op_type == "Conv":
            names[_last(layer.node).name or ""] = None
    for node in _passing(model, exclude):
        inputs = [value for value in node.inputs if value is not None and not is_constant(value)]
        if all(value.name in names for value in inputs):
            result = _last(node) if node.op_type == "Add" else node.outputs[0]
            names[result.name or ""] = None
            if node.op_type in _TIED:
                ties.append((result.name or "", inputs[0].name or ""))
    return Placement(
        activations=tuple(names),
        layers=tuple(layer.name for layer in chosen),
        floats=frozenset(exclude),
        ties=tuple(ties),
        reduced=reduced,
        biases=True,
    )


def _passing(model: ir.Model, exclude: Collection[str]) -> Iterator[ir.Node]:
    for node in model.graph:
        of_constant = node.op_type == "Add" and any(is_constant(value) for value in node.inputs)
        if node.op_type in _BYTES and node.name not in exclude and not of_constant:
            yield node


def _last(node: ir.Node) -> ir.Value:
    """The node's result, or that of the ReLU or Clip behind it when nothing else reads the result."""
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) == 1 and uses[0].node.op_type in _ABSORBED and not value.is_graph_output():
        return uses[0].node.outputs[0]
    return value
