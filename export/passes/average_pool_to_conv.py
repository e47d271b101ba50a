"""An AveragePool without padding as a depthwise Conv of equal weights (DenseNet's transitions).

    y = 1/(k l) Σ x   over windows of k x l

ONNX Runtime's integer AveragePool is many times slower than its integer depthwise Conv.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.export.passes.graph import add_constant, attribute, graph_of, static_shape, take_over

if TYPE_CHECKING:
    import onnx_ir as ir

_KEPT = ("kernel_shape", "strides", "dilations")


def average_pool_to_conv(model: ir.Model) -> int:
    """Rewrite in place; how many were. The Conv keeps the node's name."""
    return sum(_rewrite(node) for node in tuple(model.graph) if node.domain == "" and node.op_type == "AveragePool")


def _rewrite(node: ir.Node) -> bool:
    import onnx_ir as ir

    shape = static_shape(node.inputs[0])
    kernel = tuple(attribute(node, "kernel_shape", ()))
    if shape is None or len(shape) != 4 or any(attribute(node, "pads", ())) or attribute(node, "ceil_mode", 0):
        return False
    if attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    graph, channels = graph_of(node), shape[1]
    weight = np.full((channels, 1, *kernel), 1 / np.prod(kernel), dtype=np.float32)
    inputs = [node.inputs[0], add_constant(graph, f"{node.name}_weight", weight)]
    kept = {name: tuple(node.attributes[name].value) for name in _KEPT if name in node.attributes}
    conv = ir.node("Conv", inputs, {**kept, "group": channels}, name=node.name)
    graph.insert_before(node, conv)
    take_over(node.outputs[0], conv.outputs[0])
    return True
