"""A further output: what each patch brings to a class token, for ViTs whose classifier reads that one token.

    x = x' + λ ∘ (W_O [Σ_p a_1p v_1p; …; Σ_p a_Hp v_Hp] + b_O) + MLP        the class token behind the last block
    z_k = b_k + Σ_c W_kc γ_c (x_c − m) / s + Σ_c W_kc β_c                   the logits, behind the last layer norm
    M_kp = n Σ_h a_hp ⟨v_hp, u_kh⟩,      u_kh = W_O,hᵀ (λ ∘ g_k) / s,       g_kc = W_kc γ_c − mean over c of W_kc γ_c

a_hp is what the class token attends to patch p with in head h of the last block, v_hp the patch's value, λ a layer
scale (1 without one), m and s the layer norm's own mean and deviation of this image, n the patches. Values weighted by
attention: Kobayashi et al., Attention is Not Only a Weight (2020); read off at the logits: Elhage et al., A
Mathematical Framework for Transformer Circuits (2021). Nothing is approximated: the mean of M_k is what the last
attention adds to logit k by way of the patches. What the class token held before, what it attends to itself, and the
last MLP have no place and are in no map; a patch's value holds what earlier blocks mixed into it.

Unlike attention rollout it has a sign, differs between findings, and needs the class token's row of one attention only,
so that fused attention stays fused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.attention import Attention, find_attention
from medfm_compress.export.passes.cam_output import grid_of, map_node, read_value, sizes_of
from medfm_compress.export.passes.graph import add_constant, attribute, constant, maker, only_user, static_shape
from medfm_compress.export.passes.layers import layer_of
from medfm_compress.export.passes.linear_head import Head, Matrix, head_before
from medfm_compress.export.passes.multi_head_attention import DOMAIN
from medfm_compress.export.passes.projection import is_whole
from medfm_compress.runtime.class_activation import CLASS_TOKEN

if TYPE_CHECKING:
    import onnx_ir as ir

ALL_TOKENS = "class_token_parts"
"""M of every token, the class token's own among them, float32 ``[tokens, K]``; inside the graph."""
_MOST_PREFIXES = 17  # a class token and up to 16 registers
_OTHER_FORM = "its last attention is not of the form that can be read off at its class token"


class ClassToken(NamedTuple):
    """Where the maps of a graph come from.

    Attributes:
        query: name of the value that holds all queries, of scaled products, ``[1, tokens, C]`` or ``[tokens, C]``.
        key: likewise.
        value: likewise.
        output: likewise, of what the last attention's own linear layer returns, before any layer scale.
        read: likewise, of the tokens that the last layer norm reads.
        heads: how many.
        tokens: how many.
        row: which of them is the class token.
        grid: h and w of the patches, which are the last h · w tokens.
        weights: g, float32 ``[K, C]``.
        projection: W_O times λ, float32 ``[C, C]``, inputs first.
        bias: b_O, float32 ``[C]``.
        layer_scale: λ, float32 ``[C]``.
        epsilon: of the layer norm.
    """

    query: str
    key: str
    value: str
    output: str
    read: str
    heads: int
    tokens: int
    row: int
    grid: tuple[int, int]
    weights: Matrix
    projection: Matrix
    bias: NDArray[np.float32]
    layer_scale: NDArray[np.float32]
    epsilon: float


class _Parts(NamedTuple):
    """Queries, keys and values of the last attention, and what it returns."""

    query: ir.Value
    key: ir.Value
    value: ir.Value
    heads: int
    output: ir.Value


class _Written(NamedTuple):
    """How the attention's result comes into the residual stream: ``stream`` is the sum that it enters."""

    linear: ir.Value
    weight: Matrix
    bias: NDArray[np.float32]
    layer_scale: NDArray[np.float32]
    stream: ir.Value


class _Read(NamedTuple):
    """How the logits read the class token: row ``row`` of ``tokens``, which a layer norm with ``epsilon`` reads."""

    tokens: ir.Value
    row: int
    weights: Matrix
    epsilon: float


def find_class_token(model: ir.Model) -> ClassToken | str:
    """Where a ViT's class token is made and read; else why the graph has none that can be, as a phrase."""
    read = _read(model)
    if isinstance(read, str):
        return read
    parts = _last_attention(model)
    written = None if parts is None else _written(parts.output)
    if parts is None or written is None or not _reaches(written.stream, read.tokens):
        return _OTHER_FORM
    count, channels = (static_shape(read.tokens) or (0, 0))[-2:]
    prefixes = range(read.row + 1, min(_MOST_PREFIXES, count - 1) + 1)
    grid = next((grid for prefix in prefixes if (grid := grid_of(count - prefix, model))), None)
    if grid is None or grid[0] * grid[1] < 2:
        return f"of its {count} tokens none make a grid of patches"
    if channels % parts.heads or written.weight.shape != (channels, channels):
        return _OTHER_FORM
    weights = read.weights - read.weights.mean(axis=1, keepdims=True)
    return ClassToken(
        query=parts.query.name or "",
        key=parts.key.name or "",
        value=parts.value.name or "",
        output=written.linear.name or "",
        read=read.tokens.name or "",
        heads=parts.heads,
        tokens=count,
        row=read.row,
        grid=grid,
        weights=np.asarray(weights, np.float32),
        projection=np.asarray(written.weight * written.layer_scale, np.float32),
        bias=written.bias,
        layer_scale=written.layer_scale,
        epsilon=read.epsilon,
    )


def add_class_token_maps(model: ir.Model, found: ClassToken) -> None:
    """Add the output ``class_token_cam`` ``[1, K, h, w]`` to the graph it was found in, or to its quantized form."""
    import onnx_ir as ir

    graph, classes = model.graph, len(found.weights)
    places = found.grid[0] * found.grid[1]
    by_head = map_node(graph, "MatMul", [_tokens(graph, found, found.value), _directions(graph, found)], "products")
    by_head = map_node(graph, "Reshape", [by_head, sizes_of(graph, (found.tokens, classes, found.heads))], "by_head")
    weighted = map_node(graph, "Mul", [by_head, _attention(graph, found)], "weighted")
    last_axis = add_constant(graph, "cam_last_axis", np.array([2], np.int64))
    total = map_node(graph, "ReduceSum", [weighted, last_axis], "over_heads", {"keepdims": 0})
    parts = map_node(graph, "Div", [total, _deviation(graph, found)], "parts")
    parts.name = ALL_TOKENS
    patches = _rows(graph, parts, range(found.tokens - places, found.tokens))
    maps = map_node(graph, "Transpose", [patches], "labels_first", {"perm": [1, 0]})
    result = map_node(graph, "Reshape", [maps, sizes_of(graph, (1, classes, *found.grid))], "maps")
    result.name, result.shape = CLASS_TOKEN, ir.Shape((1, classes, *found.grid))
    graph.outputs.append(result)


def _attention(graph: ir.Graph, found: ClassToken) -> ir.Value:
    """What the class token attends to every token with, ``[tokens, 1, heads]``."""
    width = len(found.projection) // found.heads
    by_head = sizes_of(graph, (found.heads, 1, width)), sizes_of(graph, (found.tokens, found.heads, width))
    query = _rows(graph, _tokens(graph, found, found.query), [found.row])
    query = map_node(graph, "Reshape", [query, by_head[0]], "query")
    key = map_node(graph, "Reshape", [_tokens(graph, found, found.key), by_head[1]], "keys")
    key = map_node(graph, "Transpose", [key], "keys_by_head", {"perm": [1, 2, 0]})
    scores = map_node(graph, "MatMul", [query, key], "scores")
    row = map_node(graph, "Softmax", [scores], "attention", {"axis": -1})
    return map_node(graph, "Transpose", [row], "attention_by_token", {"perm": [2, 1, 0]})


def _directions(graph: ir.Graph, found: ClassToken) -> ir.Value:
    """N u of every label and head, each in the rows of its own head: ``[C, K · heads]``."""
    channels, heads = len(found.projection), found.heads
    directions = found.projection @ found.weights.T * (found.grid[0] * found.grid[1])
    own = np.arange(channels)[:, None] // (channels // heads) == np.arange(heads)
    spread = directions[:, :, None] * own[:, None, :]
    return add_constant(graph, "cam_directions", spread.reshape(channels, -1).astype(np.float32))


def _deviation(graph: ir.Graph, found: ClassToken) -> ir.Value:
    """S of the class token, ``[1, 1]``."""
    channels = len(found.projection)
    mean_of = add_constant(graph, "cam_mean", np.full((channels, 1), 1 / channels, np.float32))
    epsilon = add_constant(graph, "cam_epsilon", np.array([[found.epsilon]], np.float32))
    row = _rows(graph, _tokens(graph, found, found.read), [found.row])
    centred = map_node(graph, "Sub", [row, map_node(graph, "MatMul", [row, mean_of], "row_mean")], "row_centred")
    square = map_node(graph, "Mul", [centred, centred], "row_square")
    variance = map_node(graph, "MatMul", [square, mean_of], "row_variance")
    return map_node(graph, "Sqrt", [map_node(graph, "Add", [variance, epsilon], "row_floor")], "row_deviation")


def _tokens(graph: ir.Graph, found: ClassToken, name: str) -> ir.Value:
    """The value of that name as ``[tokens, C]``."""
    sizes = sizes_of(graph, (found.tokens, len(found.projection)))
    return map_node(graph, "Reshape", [read_value(graph, name), sizes], "tokens")


def _rows(graph: ir.Graph, value: ir.Value, rows: Sequence[int]) -> ir.Value:
    numbers = add_constant(graph, "cam_rows", np.array(rows, np.int64))
    return map_node(graph, "Gather", [value, numbers], "taken", {"axis": 0})


def _read(model: ir.Model) -> _Read | str:
    """From the logits back to the token that they read, and the layer norm in front of it or behind."""
    logits = model.graph.outputs[0]
    shape = static_shape(logits)
    if shape is None or len(shape) != 2 or shape[0] != 1:
        return "its output is not one row of logits"
    head: Head | str = Head(logits, np.eye(shape[1], dtype=np.float32))
    while not isinstance(head, str):
        node = head.value.producer()
        row = None if node is None else _row_taken(node)
        if node is not None and row is not None:
            return _normed(head, _behind(node.inputs[0]), row)
        head = head_before(head, node)
    return head


def _normed(head: Head, tokens: ir.Value | None, row: int) -> _Read | str:
    if head.normed and tokens is not None:
        return _Read(tokens, row, head.weights, head.epsilon)
    norm = maker(tokens, "LayerNormalization")
    gamma = None if norm is None else constant(norm.inputs[1])
    if norm is None or gamma is None or norm.inputs[0] is None or gamma.size != head.weights.shape[1]:
        return "no layer norm stands before its classifier"
    weights = np.asarray(head.weights * gamma.reshape(1, -1), np.float32)
    source = _behind(norm.inputs[0]) or norm.inputs[0]
    return _Read(source, row, weights, float(attribute(norm, "epsilon", 1e-5)))


def _row_taken(node: ir.Node) -> int | None:
    """Which of the tokens ``[1, tokens, C]`` the node takes alone; None where it does something else."""
    shape = static_shape(node.inputs[0]) if node.inputs else None
    if shape is None or len(shape) != 3 or shape[0] != 1:
        return None
    numbers = [constant(value) for value in node.inputs[1:]]
    if node.op_type == "Gather" and attribute(node, "axis", 0) == 1 and numbers[0] is not None:
        return int(numbers[0].item()) % shape[1] if numbers[0].size == 1 else None
    if node.op_type == "Slice" and len(numbers) >= 3 and all(n is not None and n.size == 1 for n in numbers):
        start, end, axis = (int(n.item()) for n in numbers[:3] if n is not None)
        return start if axis == 1 and start >= 0 and end == start + 1 else None
    return None


def _last_attention(model: ir.Model) -> _Parts | None:
    """The last attention of the graph, fused or not; None where it is masked or of another form."""
    fused = [node for node in model.graph if node.op_type == "MultiHeadAttention" and node.domain == DOMAIN]
    if fused:
        return _fused(fused[-1])
    softmaxes = [node for node in model.graph if node.domain == "" and node.op_type == "Softmax"]
    last = next((found for found in reversed(find_attention(model)) if found.softmax is softmaxes[-1]), None)
    return None if last is None else _plain(last)


def _fused(node: ir.Node) -> _Parts | None:
    query, key, value, *others = node.inputs
    unmasked = not any(other is not None for other in others) and attribute(node, "scale", 0.0) == 1.0
    if query is None or key is None or value is None or not unmasked:
        return None
    return _Parts(query, key, value, int(attribute(node, "num_heads", 1)), node.outputs[0])


def _plain(attention: Attention) -> _Parts | None:
    parts = (attention.query, attention.key, attention.value)
    if attention.masks or attention.scale != 1 or not all(is_whole(part) and part.layer.axis == -1 for part in parts):
        return None
    query, key, value = (part.layer.output for part in parts)
    return _Parts(query, key, value, len(attention.query.columns), attention.output)


def _written(value: ir.Value) -> _Written | None:
    """Forward from the attention: one linear layer, a layer scale or none, and the sum with what was before."""
    layer = None
    scale: NDArray[np.float32] = np.ones(1, np.float32)
    linear = value
    while (user := only_user(value)) is not None:
        numbers = [array for array in map(constant, user.inputs) if array is not None]
        if user.op_type in ("Reshape", "Identity", "Dropout"):
            value = user.outputs[0]
        elif layer is None and (layer := layer_of(user)) is not None:
            value = linear = layer.output
        elif layer is not None and user.op_type == "Mul" and numbers:
            value, scale = user.outputs[0], np.asarray(scale * numbers[0].reshape(-1), np.float32)
        elif layer is not None and user.op_type == "Add" and not numbers:
            weight = layer.weight if layer.out_axis == 1 else layer.weight.T
            bias = np.zeros(layer.channels, np.float32) if layer.bias is None else layer.bias
            full = np.broadcast_to(scale, (layer.channels,))
            return _Written(linear, np.asarray(weight, np.float32), bias, full, user.outputs[0])
        else:
            return None
    return None


def _reaches(stream: ir.Value, tokens: ir.Value) -> bool:
    """Whether ``tokens`` are ``stream``, or the sum of it and one branch (the last MLP)."""
    if tokens is stream:
        return True
    total = maker(tokens, "Add")
    return total is not None and any(value is not None and _behind(value) is stream for value in total.inputs)


def _behind(value: ir.Value | None) -> ir.Value | None:
    """What a value was before it was given another shape."""
    while (node := maker(value, "Reshape", "Identity", "Dropout")) is not None:
        value = node.inputs[0]
    return value
