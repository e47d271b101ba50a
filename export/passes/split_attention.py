"""Give each attention its queries, keys and values as linear layers of their own, in one plain form.

    one layer of 3 * C columns, view, permute, slices, scales  →  Q, K, V = MatMul + Add, Reshape, Transpose each

The scale goes into the weights of the queries. Nothing is moved to slice it, and engines recognise the form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.export.passes.attention import Attention, Projection, find_attention
from medfm_compress.export.passes.graph import add_shape, constant, graph_of, insert, shaped, static_shape, take_over
from medfm_compress.export.passes.projection import is_whole, project

if TYPE_CHECKING:
    import onnx_ir as ir

_KEYS = ((0, 1, 2, 3), (0, 2, 3, 1))  # from an image [1, heads, width, tokens], from [1, tokens, heads, width]
_OTHERS = ((0, 1, 3, 2), (0, 2, 1, 3))


def split_attention(model: ir.Model) -> int:
    """Rewrite in place; how many attentions were not in this form."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    attentions = [attention for attention in find_attention(model) if not _is_plain(attention)]
    for attention in attentions:
        _rewrite(attention)
    RemoveUnusedNodesPass()(model)
    return len(attentions)


def _is_plain(attention: Attention) -> bool:
    parts = (attention.query, attention.key, attention.value)
    return attention.scale == 1 and all(is_whole(part) for part in parts)


def _rewrite(attention: Attention) -> None:
    scores = _scores(attention)
    before = scores.producer()
    if before is None:
        return
    scale = attention.scale * attention.query.scale * attention.key.scale
    query = _heads(attention.query, "query", scale, before)
    key = _heads(attention.key, "key", 1.0, before)
    product = insert(before, "MatMul", [query, key], f"{scores.name}_product")
    take_over(scores, product)
    weighted = attention.softmax.outputs[0].consumers()[0]
    value = _heads(attention.value, "value", attention.value.scale, weighted)
    weighted.replace_input_with(1, value)


def _scores(attention: Attention) -> ir.Value:
    """The scaled scores, before the mask."""
    masked = attention.softmax.inputs[0]
    add = None if masked is None or attention.mask is None else masked.producer()
    scores = masked if add is None else next(operand for operand in add.inputs if constant(operand) is None)
    if scores is None:
        raise ValueError(f"{attention.softmax.name} reads nothing")
    return scores


def _heads(part: Projection, role: str, scale: float, before: ir.Node) -> ir.Value:
    """Queries and values as ``[1, heads, tokens, width]``, keys as ``[1, heads, width, tokens]``."""
    flat = project(part, role, scale, before)
    heads, width = part.columns.shape
    tokens = int(np.prod(static_shape(flat) or ())) // part.columns.size
    on_tokens = part.layer.axis == -1
    split = (1, tokens, heads, width) if on_tokens else (1, heads, width, tokens)
    name = f"{flat.name}_heads"
    view = shaped(insert(before, "Reshape", [flat, add_shape(graph_of(before), split)], f"{name}_split"), split, flat)
    perm = (_KEYS if role == "key" else _OTHERS)[on_tokens]
    if perm == (0, 1, 2, 3):
        return view
    return shaped(insert(before, "Transpose", [view], name, {"perm": perm}), tuple(split[axis] for axis in perm), flat)
