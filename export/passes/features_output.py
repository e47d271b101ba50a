"""A second output: the classifier's input, so that a device can tell how usual an image is (`runtime.typicality`).

From the logits back through operators that only add a constant or move numbers stands the last layer with a constant
weight; what enters it, as one row ``[1, d]``, is the network's description of the image. Of a network that takes
columns beside the image it is what enters the operator at which the two meet: how usual an image is says nothing of
its columns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.export.passes.graph import add_constant, constant, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

FEATURES = "features"
MAX_WIDTH = 8192
_CLASSIFIERS = ("Gemm", "MatMul", "Conv")
_PASSES_ON = ("Add", "Reshape", "Flatten", "Squeeze", "Identity", "Gather", "Mul", "Div")


def features_output(model: ir.Model) -> int:
    """Add the output ``features`` ``[1, d]`` in place; 0, and nothing is changed, where no such row exists."""
    import onnx_ir as ir

    value = _classifier_input(model.graph) if len(model.graph.inputs) == 1 else _fused_value(model.graph)
    shape = static_shape(value)
    if value is None or shape is None or len(model.graph.outputs) != 1:
        return 0
    width = math.prod(shape)
    if not shape or shape[0] != 1 or width != max(shape) or not 1 < width <= MAX_WIDTH:
        return 0
    target = add_constant(model.graph, f"{FEATURES}_shape", np.array([1, width], dtype=np.int64))
    node = ir.node("Reshape", [value, target], name=FEATURES)
    row = node.outputs[0]
    row.name, row.shape, row.type = FEATURES, ir.Shape([1, width]), ir.TensorType(ir.DataType.FLOAT)
    model.graph.append(node)
    model.graph.outputs.append(row)
    return 1


def _fused_value(graph: ir.Graph) -> ir.Value | None:
    """The value of the image alone that meets the columns; None where it is not one."""
    image, *columns = graph.inputs
    of_image, of_columns = {image}, set(columns)
    meeting: set[ir.Value] = set()
    for node in graph:  # in topological order
        entering = [value for value in node.inputs if value is not None]
        seen = [value for value in entering if value in of_image and value not in of_columns]
        beside = any(value in of_columns for value in entering)
        meeting.update(seen if beside else ())
        if seen:
            of_image.update(node.outputs)
        if beside:
            of_columns.update(node.outputs)
    return meeting.pop() if len(meeting) == 1 else None


def _classifier_input(graph: ir.Graph) -> ir.Value | None:
    value: ir.Value | None = graph.outputs[0] if len(graph.outputs) else None
    while value is not None:
        node = value.producer()
        if node is None or node.domain not in ("", "ai.onnx"):
            return None
        entering = [entry for entry in node.inputs if entry is not None and constant(entry) is None]
        if len(entering) != 1:
            return None
        if node.op_type in _CLASSIFIERS:
            return entering[0]
        if node.op_type not in _PASSES_ON:
            return None
        value = entering[0]
    return None
