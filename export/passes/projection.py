"""Queries, keys or values as a layer of their own: the columns of a wider one, in the order of the heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.export.passes.attention import Projection
from medfm_compress.export.passes.graph import add_constant, graph_of, insert, shaped, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir


def is_whole(part: Projection) -> bool:
    """The layer gives nothing else, in the order of the heads, and unscaled."""
    return part.scale == 1 and np.array_equal(part.columns.reshape(-1), np.arange(part.layer.channels))


def project(part: Projection, role: str, scale: float, before: ir.Node) -> ir.Value:
    """Tokens ``[n, tokens, heads * width]`` or images ``[n, heads * width, H, W]``, as the layer gives them.

    Args:
        part: where they come from; a layer that gives just them is taken as it is.
        role: query, key or value; for names.
        scale: what the weights are multiplied by.
        before: the node that reads them.
    """
    if is_whole(part) and scale == 1:
        return part.layer.output
    name = f"{part.layer.output.name}_{role}"
    return (_tokens if part.layer.axis == -1 else _image)(part, name, scale, before)


def _tokens(part: Projection, name: str, scale: float, before: ir.Node) -> ir.Value:
    layer, graph, columns = part.layer, graph_of(before), part.columns.reshape(-1)
    weight = layer.weight if layer.out_axis == 1 else layer.weight.T
    shape = (*(static_shape(layer.output) or ())[:-1], columns.size)
    weights = add_constant(graph, f"{name}_weight", (weight[:, columns] * scale).astype(np.float32))
    inputs = [layer.node.inputs[0], weights]
    made = insert(before, "MatMul", inputs, name if layer.bias is None else f"{name}_unbiased")
    shaped(made, shape, layer.output)
    if layer.bias is None:
        return made
    bias = add_constant(graph, f"{name}_bias", (layer.bias[columns] * scale).astype(np.float32))
    return shaped(insert(before, "Add", [made, bias], name), shape, layer.output)


def _image(part: Projection, name: str, scale: float, before: ir.Node) -> ir.Value:
    import onnx_ir as ir

    layer, graph, rows = part.layer, graph_of(before), part.columns.reshape(-1)
    constants = [add_constant(graph, f"{name}_weight", (layer.weight[rows] * scale).astype(np.float32))]
    if layer.bias is not None:
        constants.append(add_constant(graph, f"{name}_bias", (layer.bias[rows] * scale).astype(np.float32)))
    conv = ir.node("Conv", [layer.node.inputs[0], *constants], layer.node.attributes, name=f"node_{name}")
    conv.outputs[0].name = name
    graph.insert_before(before, conv)
    batch, _, *sides = static_shape(layer.output) or (1, 1)
    return shaped(conv.outputs[0], (batch, rows.size, *sides), layer.output)
