"""Give each attention its queries, keys and values as linear layers of their own, in one plain form.

    one layer of 3 * C columns, view, permute, slices, scales  →  Q, K, V = MatMul + Add, Reshape, Transpose each

The scale goes into the weights of the queries. Nothing is moved to slice it, and engines recognise the form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.export.passes.attention import Attention, Projection, find_attention
from medfm_compress.export.passes.graph import add_shape, graph_of, insert, shaped, static_shape, take_over
from medfm_compress.export.passes.projection import is_whole, project

if TYPE_CHECKING:
    import onnx_ir as ir

_KEYS = ((0, 1, 2, 3), (0, 2, 3, 1))  # from images [n, heads, width, tokens], from [n, tokens, heads, width]
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
    scores = attention.scores
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


def _heads(part: Projection, role: str, scale: float, before: ir.Node) -> ir.Value:
    """Queries and values as ``[n, heads, tokens, width]``, keys as ``[n, heads, width, tokens]``."""
    flat = project(part, role, scale, before)
    heads, width = part.columns.shape
    shape = static_shape(flat) or (1,)
    tokens = int(np.prod(shape[1:])) // part.columns.size
    on_tokens = part.layer.axis == -1
    split = (shape[0], tokens, heads, width) if on_tokens else (shape[0], heads, width, tokens)
    name = f"{flat.name}_heads"
    view = shaped(insert(before, "Reshape", [flat, add_shape(graph_of(before), split)], f"{name}_split"), split, flat)
    perm = (_KEYS if role == "key" else _OTHERS)[on_tokens]
    if perm == (0, 1, 2, 3):
        return view
    return shaped(insert(before, "Transpose", [view], name, {"perm": perm}), tuple(split[axis] for axis in perm), flat)
