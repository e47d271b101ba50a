"""Split a layer whose outputs are split: each part becomes a layer of its own.

    Split(Conv(x), axis=1) → Conv_0(x), Conv_1(x), ...

Engines keep channels in blocks of 8 or 16, and a cut that falls inside a block (MobileViTv2's 1 + 128 + 128) costs
more than the layer itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import add_constant, attribute, graph_of, reads_alone, static_shape
from medfm_compress.export.passes.layers import Layer, layer_behind

if TYPE_CHECKING:
    import onnx_ir as ir


def split_layers(model: ir.Model) -> int:
    """Split in place; how many layers were."""
    return sum(_split(node) for node in tuple(model.graph) if node.domain == "" and node.op_type == "Split")


def _split(node: ir.Node) -> bool:
    value = node.inputs[0]
    layer = None if value is None else layer_behind(value)
    shapes = [static_shape(output) for output in node.outputs]
    if layer is None or layer.node.op_type != "Conv" or not reads_alone(node, layer.output):
        return False
    if attribute(node, "axis", 0) % layer.weight.ndim != 1 or attribute(layer.node, "group", 1) != 1:
        return False
    sizes = [shape[1] for shape in shapes if shape is not None]
    if sum(sizes) != layer.channels or len(sizes) != len(shapes):
        return False
    ends = np.cumsum(sizes)
    for number, (output, end, size) in enumerate(zip(node.outputs, ends, sizes, strict=True)):
        _part(layer, number, slice(int(end) - size, int(end)), output)
    graph_of(node).remove([node, layer.node], safe=True)
    return True


def _part(layer: Layer, number: int, rows: slice, output: ir.Value) -> None:
    """The rows of a layer as a new one, which takes over ``output``."""
    import onnx_ir as ir

    graph, old = graph_of(layer.node), layer.node
    name = f"{old.name}_{number}"

    def part(suffix: str, array: NDArray[np.float32]) -> ir.Value:
        return add_constant(graph, f"{name}_{suffix}", array[rows])

    biases = [] if layer.bias is None else [part("bias", layer.bias)]
    new = ir.node("Conv", [old.inputs[0], part("weight", layer.weight), *biases], old.attributes, name=name)
    graph.insert_before(old, new)
    called, shape, kind = output.name, output.shape, output.type
    output.replace_all_uses_with(new.outputs[0], replace_graph_outputs=True)
    output.name = f"{called}_replaced"
    new.outputs[0].name, new.outputs[0].shape, new.outputs[0].type = called, shape, kind
