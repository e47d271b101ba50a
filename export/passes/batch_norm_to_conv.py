"""A BatchNormalization that no layer takes in, as a depthwise 1 x 1 Conv: a pre-activation one (DenseNet's).

    y = g (x - m) / sqrt(v + e) + b = s x + t

ONNX Runtime has an integer kernel for the Conv and none for the BatchNormalization, so a chain of bytes stays one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.export.passes.graph import add_constant, attribute, constant, graph_of, static_shape, take_over

if TYPE_CHECKING:
    import onnx_ir as ir


def batch_norm_to_conv(model: ir.Model) -> int:
    """Rewrite in place; how many were. The Conv keeps the node's name."""
    return sum(_rewrite(node) for node in tuple(model.graph) if node.op_type == "BatchNormalization")


def _rewrite(node: ir.Node) -> bool:
    import onnx_ir as ir

    shape = static_shape(node.outputs[0])
    vectors = [constant(value) for value in node.inputs[1:5]]
    if shape is None or len(shape) != 4 or any(vector is None for vector in vectors):
        return False
    if attribute(node, "training_mode", 0) or any(output.uses() for output in node.outputs[1:]):
        return False
    gamma, beta, mean, variance = (np.asarray(vector, dtype=np.float64) for vector in vectors)
    scale = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    graph, channels = graph_of(node), shape[1]
    inputs = [
        node.inputs[0],
        add_constant(graph, f"{node.name}_weight", scale.astype(np.float32).reshape(channels, 1, 1, 1)),
        add_constant(graph, f"{node.name}_bias", (beta - mean * scale).astype(np.float32)),
    ]
    conv = ir.node("Conv", inputs, {"group": channels, "kernel_shape": [1, 1]}, name=node.name)
    graph.insert_before(node, conv)
    take_over(node.outputs[0], conv.outputs[0])
    return True
