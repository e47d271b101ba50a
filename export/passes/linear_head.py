"""From the logits back to the row that they are linear in, through whatever linear nodes stand between.

    z = W x + b      x what a value holds for this image, W the product of all that lies behind it

One layer norm may stand between, since with its own mean and deviation of this image it is linear as well.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import attribute, constant, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Transpose")

Matrix = NDArray[np.float32]


class Head(NamedTuple):
    """What lies between a value and the logits: ``weights`` ``[K, its width]``, and a layer norm behind it, if any."""

    value: ir.Value
    weights: Matrix
    normed: str = ""
    epsilon: float = 0.0


def head_before(head: Head, node: ir.Node | None) -> Head | str:  # noqa: PLR0911 - one kind of node a line
    """The head one node further from the logits; else what stands in the way."""
    if node is None or node.domain not in ("", "ai.onnx"):
        return "its classifier does not read the mean of a feature map"
    entering = [value for value in node.inputs if value is not None and constant(value) is None]
    if len(entering) != 1:
        return f"{node.op_type} joins {len(entering)} values between its last feature map and its logits"
    value = entering[0]
    if node.op_type in _MOVES or (node.op_type in ("Add", "Sub") and node.inputs[0] is value):
        return head._replace(value=value) if is_row(value) else "its classifier reads places of a map one by one"
    if node.op_type == "Add":
        return head._replace(value=value)
    if node.op_type == "LayerNormalization" and not head.normed:
        return _through_norm(head, node, value)
    matrix = _matrix(node, value)
    if matrix is None or head.normed:
        return _obstacle(node)
    return head._replace(value=value, weights=np.asarray(head.weights @ matrix, np.float32))


def _obstacle(node: ir.Node) -> str:
    if node.op_type in ("Slice", "Gather"):
        return "its classifier reads one token, not the mean of all places"
    return f"{node.op_type} stands between the mean of its last feature map and its logits"


def _through_norm(head: Head, node: ir.Node, value: ir.Value) -> Head | str:
    gamma = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if gamma is None or not is_row(value) or gamma.size != head.weights.shape[1]:
        return "LayerNormalization stands over more than the mean of its last feature map"
    weights = np.asarray(head.weights * gamma.reshape(1, -1), np.float32)
    return Head(value, weights, value.name or "", float(attribute(node, "epsilon", 1e-5)))


def _matrix(node: ir.Node, value: ir.Value) -> Matrix | None:  # noqa: PLR0911 - one kind of node a line
    """What the node multiplies a row with, ``[out, in]``; None where it does something else or the row is none."""
    numbers = [array for array in map(constant, node.inputs) if array is not None]
    if not is_row(value) or not numbers:
        return None
    first, width = numbers[0], math.prod(static_shape(value) or ())
    if node.op_type == "Gemm" and node.inputs[0] is value and not attribute(node, "transA", 0):
        turned = first if attribute(node, "transB", 0) else first.T
        return np.asarray(turned * attribute(node, "alpha", 1.0), np.float32)
    if node.op_type == "MatMul" and node.inputs[0] is value and first.ndim == 2:
        return np.asarray(first.T, np.float32)
    if node.op_type == "Conv" and attribute(node, "group", 1) == 1 and first.shape[1:] == (width, 1, 1):
        return np.asarray(first[:, :, 0, 0], np.float32)
    if node.op_type in ("Mul", "Div") and node.inputs[0] is value and first.size in (1, width):
        factors = np.broadcast_to(first.reshape(-1).astype(np.float32), (width,))
        return np.diag(factors if node.op_type == "Mul" else 1 / factors)
    if node.op_type == "Gather" and first.ndim == 1 and attribute(node, "axis", 0) in (1, -1):
        return np.eye(width, dtype=np.float32)[first.astype(np.int64)]
    return None


def is_row(value: ir.Value | None) -> bool:
    """Whether all of its elements stand along one axis; a value of unknown shape is none."""
    shape = static_shape(value)
    return bool(shape) and math.prod(shape or ()) == max(shape or (0,))
