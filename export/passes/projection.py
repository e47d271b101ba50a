"""Queries, keys or values as a linear layer of their own: the columns of a wider one, in the order of the heads."""

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
    """The tokens ``[1, tokens, heads * width]`` times ``scale``, from a layer of their own before ``before``.

    Args:
        part: where they come from; a layer that gives just them is taken as it is.
        role: query, key or value; for names.
        scale: what the weights are multiplied by.
        before: the node that reads them.
    """
    layer, graph = part.layer, graph_of(before)
    if is_whole(part) and scale == 1:
        return layer.output
    columns = part.columns.reshape(-1)
    weight = layer.weight if layer.out_axis == 1 else layer.weight.T
    tokens = (static_shape(layer.output) or (1, 1, 1))[1]
    name = f"{layer.output.name}_{role}"
    weights = add_constant(graph, f"{name}_weight", (weight[:, columns] * scale).astype(np.float32))
    inputs = [layer.node.inputs[0], weights]
    made = insert(before, "MatMul", inputs, name if layer.bias is None else f"{name}_unbiased")
    shaped(made, (1, tokens, columns.size), layer.output)
    if layer.bias is not None:
        bias = add_constant(graph, f"{name}_bias", (layer.bias[columns] * scale).astype(np.float32))
        made = shaped(insert(before, "Add", [made, bias], name), (1, tokens, columns.size), layer.output)
    return made
