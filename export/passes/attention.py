"""Recognise softmax attention, however its queries, keys and values are laid out.

    O = softmax(a Q K^T + M) V,   Q = x W[:, q] + b[q] and so on, for each head

Exporters write one linear layer and then views, transposes and slices that differ by model. What they do is found by
sending the position of each number through them: tokens must stay in place, and each head's channels must come from
the same columns of the layer for every token. What is not of this form is left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import attribute, constant, maker, only_user, static_shape
from medfm_compress.export.passes.layers import Layer, layer_behind
from medfm_compress.export.passes.layout import mover, replay

if TYPE_CHECKING:
    import onnx_ir as ir

Indices = NDArray[np.int64]


class Projection(NamedTuple):
    """Where queries, keys or values come from.

    Attributes:
        layer: a linear layer on tokens ``[1, tokens, channels]``, or a Conv on an image ``[1, channels, H, W]``.
        columns: of the layer's output that make them, ``[heads, width]``.
        scale: what they are multiplied by on the way.
    """

    layer: Layer
    columns: Indices
    scale: float


class Attention(NamedTuple):
    """One attention.

    Attributes:
        query, key, value: heads and tokens are as many in each; query and key are equally wide.
        scale: of the scores, those of query and key not counted.
        mask: added to the scores, a constant that broadcasts to ``[1, heads, tokens, tokens]``, or None.
        softmax: the node.
        output: the value ``[1, tokens, heads * width]``, or as an image ``[1, heads * width, H, W]``.
    """

    query: Projection
    key: Projection
    value: Projection
    scale: float
    mask: ir.Value | None
    softmax: ir.Node
    output: ir.Value


def find_attention(model: ir.Model) -> list[Attention]:
    """Every attention of this form, in the order of the graph."""
    nodes = [node for node in model.graph if node.domain == "" and node.op_type == "Softmax"]
    return [attention for attention in map(_recognise, nodes) if attention is not None]


def _recognise(softmax: ir.Node) -> Attention | None:
    shape = static_shape(softmax.outputs[0])
    user = only_user(softmax.outputs[0])
    if shape is None or len(shape) != 4 or shape[0] != 1 or attribute(softmax, "axis", -1) not in (-1, 3):
        return None
    if user is None or user.op_type != "MatMul" or user.inputs[0] is not softmax.outputs[0]:
        return None
    scores, mask, scale = _scores(softmax.inputs[0])
    output = _output(user.outputs[0])
    if scores is None or output is None:
        return None
    query = _projection(scores.inputs[0], transposed=False)
    key = _projection(scores.inputs[1], transposed=True)
    value = _projection(user.inputs[1], transposed=False)
    if query is None or key is None or value is None or query.columns.shape != key.columns.shape:
        return None
    return Attention(query, key, value, scale, mask, softmax, output)


def _scores(value: ir.Value | None) -> tuple[ir.Node | None, ir.Value | None, float]:
    """The MatMul of queries and keys, the constant added to it, and the number it is multiplied by before."""
    mask = None
    add = maker(value, "Add")
    if add is not None:
        masks = [operand for operand in add.inputs if constant(operand) is not None]
        if len(masks) != 1 or not _alone(add):
            return None, None, 1.0
        mask = masks[0]
        value = add.inputs[1] if add.inputs[0] is mask else add.inputs[0]
    scale = 1.0
    while (node := maker(value, "Mul", "Div")) is not None and (factor := _scalar(node)) is not None and _alone(node):
        scale, value = scale * factor[0], factor[1]
    matmul = maker(value, "MatMul")
    return (matmul if matmul is not None and _alone(matmul) else None), mask, scale


def _alone(node: ir.Node) -> bool:
    return only_user(node.outputs[0]) is not None


def _scalar(node: ir.Node) -> tuple[float, ir.Value | None] | None:
    """The one number that a Mul or Div applies, and what it applies it to."""
    for index in (1, 0) if node.op_type == "Mul" else (1,):
        number = constant(node.inputs[index])
        if number is not None and number.size == 1:
            factor = float(number.item())
            return (factor if node.op_type == "Mul" else 1 / factor), node.inputs[1 - index]
    return None


def _output(value: ir.Value) -> ir.Value | None:
    """The tokens or the image that heads ``[1, heads, tokens, width]`` are put together to; see `Attention`."""
    shape, end = static_shape(value), value
    if shape is None:
        return None
    heads, tokens, width = shape[1:]
    positions = np.arange(heads * tokens * width).reshape(shape)
    expected = positions[0].transpose(1, 0, 2).reshape(1, tokens, -1)
    while (user := only_user(end)) is not None and user.op_type in ("Transpose", "Reshape"):
        end = user.outputs[0]
        if static_shape(end) is None:
            return None
        positions = replay(user, end, positions)
        if np.array_equal(positions, expected) or np.array_equal(_as_tokens(positions), expected):
            return end
    return None


def _projection(value: ir.Value | None, *, transposed: bool) -> Projection | None:
    path: list[ir.Value] = []
    scale = 1.0
    while value is not None and (node := mover(value) or maker(value, "Mul", "Div")) is not None:
        if node.op_type in ("Mul", "Div"):
            factor = _scalar(node)
            if factor is None:
                return None
            scale, value = scale * factor[0], factor[1]
        else:
            path.append(value)
            value = node.inputs[0]
    layer = None if value is None else layer_behind(value)
    shape = None if value is None else static_shape(value)
    if layer is None or shape is None or shape[0] != 1:
        return None
    positions = _positions(layer, shape)
    if positions is None:
        return None
    for step in reversed(path):
        positions = _follow(step, positions)
    columns = _columns(positions, layer.channels, transposed=transposed)
    return None if columns is None else Projection(layer, columns, scale)


def _positions(layer: Layer, shape: tuple[int, ...]) -> Indices | None:
    """For each number of a layer's output, token * channels + channel."""
    positions = np.arange(np.prod(shape))
    if layer.axis == -1:
        return positions.reshape(shape) if len(shape) == 3 else None
    if len(shape) != 4 or attribute(layer.node, "group", 1) != 1:
        return None
    return positions.reshape(-1, layer.channels).T.reshape(shape)


def _as_tokens(image: NDArray[Any]) -> NDArray[Any]:
    """``[1, channels, H, W]`` as ``[1, H * W, channels]``; anything else as nothing."""
    return image.reshape(1, image.shape[1], -1).swapaxes(1, 2) if image.ndim == 4 else np.empty(0)


def _columns(positions: Indices, channels: int, *, transposed: bool) -> Indices | None:
    """Columns ``[heads, width]`` of positions ``[1, heads, tokens, width]``, if each token stays where it is."""
    if positions.ndim == 3:
        positions = positions[None]
    if transposed:
        positions = positions.swapaxes(-1, -2)
    if positions.ndim != 4 or positions.shape[0] != 1:
        return None
    tokens = positions.shape[2]
    token, column = np.divmod(positions[0], channels)
    in_place = np.array_equal(token, np.broadcast_to(np.arange(tokens)[:, None], token.shape))
    return column[:, 0] if in_place and np.all(column == column[:, :1]) else None


def _follow(value: ir.Value, positions: Indices) -> Indices:
    node = value.producer()
    assert node is not None  # noqa: S101 - the path was walked from it
    return replay(node, value, positions)
