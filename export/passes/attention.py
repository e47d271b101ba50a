"""Recognise softmax attention, however its queries, keys and values are laid out.

    O = softmax(a Q K^T + M) V,   Q = x W[:, q] + b[q] and so on, for each head and each image or window

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
        layer: a linear layer on tokens ``[n, tokens, channels]``, or a Conv on images ``[n, channels, H, W]``; n is the
            batch, or the number of windows.
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
        masks: what is added to the scores, constants that broadcast to ``[n, heads, tokens, tokens]``.
        scores: the scaled scores, before the masks.
        softmax: the node.
        output: the value ``[n, tokens, heads * width]``, or as images ``[n, heads * width, H, W]``.
    """

    query: Projection
    key: Projection
    value: Projection
    scale: float
    masks: tuple[ir.Value, ...]
    scores: ir.Value
    softmax: ir.Node
    output: ir.Value


def find_attention(model: ir.Model) -> list[Attention]:
    """Every attention of this form, in the order of the graph."""
    nodes = [node for node in model.graph if node.domain == "" and node.op_type == "Softmax"]
    return [attention for attention in map(_recognise, nodes) if attention is not None]


def _recognise(softmax: ir.Node) -> Attention | None:
    shape = static_shape(softmax.outputs[0])
    user = only_user(softmax.outputs[0])
    if shape is None or len(shape) != 4 or attribute(softmax, "axis", -1) not in (-1, 3):
        return None
    if user is None or user.op_type != "MatMul" or user.inputs[0] is not softmax.outputs[0]:
        return None
    scores, masks = _masks(softmax.inputs[0])
    product, scale = _product(scores)
    output = _output(user.outputs[0])
    if scores is None or product is None or output is None:
        return None
    query = _projection(product.inputs[0], transposed=False)
    key = _projection(product.inputs[1], transposed=True)
    value = _projection(user.inputs[1], transposed=False)
    if query is None or key is None or value is None or query.columns.shape != key.columns.shape:
        return None
    return Attention(query, key, value, scale, masks, scores, softmax, output)


def _masks(value: ir.Value | None) -> tuple[ir.Value | None, tuple[ir.Value, ...]]:
    """The scores, and the constants that are added to them."""
    masks: list[ir.Value] = []
    while (add := maker(value, "Add")) is not None and _alone(add):
        constants = [operand for operand in add.inputs if operand is not None and constant(operand) is not None]
        if len(constants) != 1:
            return None, ()
        masks += constants
        value = add.inputs[1] if add.inputs[0] is constants[0] else add.inputs[0]
    return value, tuple(masks)


def _product(value: ir.Value | None) -> tuple[ir.Node | None, float]:
    """The MatMul of queries and keys, and the number it is multiplied by."""
    scale = 1.0
    while (node := maker(value, "Mul", "Div")) is not None and (factor := _scalar(node)) is not None and _alone(node):
        scale, value = scale * factor[0], factor[1]
    matmul = maker(value, "MatMul")
    return (matmul if matmul is not None and _alone(matmul) else None), scale


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
    """The tokens or the images that heads ``[n, heads, tokens, width]`` are put together to; see `Attention`."""
    shape, end = static_shape(value), value
    if shape is None:
        return None
    batch, _, tokens, _ = shape
    positions = np.arange(np.prod(shape)).reshape(shape)
    expected = positions.transpose(0, 2, 1, 3).reshape(batch, tokens, -1)
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
    if layer is None or shape is None:
        return None
    positions = _positions(layer, shape)
    if positions is None:
        return None
    for step in reversed(path):
        positions = _follow(step, positions)
    columns = _columns(positions, shape[0], layer.channels, transposed=transposed)
    return None if columns is None else Projection(layer, columns, scale)


def _positions(layer: Layer, shape: tuple[int, ...]) -> Indices | None:
    """For each number of a layer's output, token * channels + channel."""
    positions = np.arange(np.prod(shape))
    if layer.axis == -1:
        return positions.reshape(shape) if len(shape) == 3 else None
    if len(shape) != 4 or attribute(layer.node, "group", 1) != 1:
        return None
    return positions.reshape(shape[0], -1, layer.channels).swapaxes(1, 2).reshape(shape)


def _as_tokens(images: NDArray[Any]) -> NDArray[Any]:
    """``[n, channels, H, W]`` as ``[n, H * W, channels]``; anything else as nothing."""
    return images.reshape(*images.shape[:2], -1).swapaxes(1, 2) if images.ndim == 4 else np.empty(0)


def _columns(positions: Indices, batch: int, channels: int, *, transposed: bool) -> Indices | None:
    """Columns ``[heads, width]`` of positions ``[n, heads, tokens, width]``, if each token stays where it is."""
    if positions.ndim == 3 and batch == 1:
        positions = positions[None]
    if transposed:
        positions = positions.swapaxes(-1, -2)
    if positions.ndim != 4 or positions.shape[0] != batch:
        return None
    tokens = positions.shape[2]
    token, column = np.divmod(positions, channels)
    expected = np.arange(batch * tokens).reshape(batch, 1, tokens, 1)
    in_place = np.array_equal(token, np.broadcast_to(expected, token.shape))
    return column[0, :, 0] if in_place and np.all(column == column[:1, :, :1]) else None


def _follow(value: ir.Value, positions: Indices) -> Indices:
    node = value.producer()
    assert node is not None  # noqa: S101 - the path was walked from it
    return replay(node, value, positions)
