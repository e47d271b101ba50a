"""Attention as ONNX Runtime's one fused kernel, ``com.microsoft::MultiHeadAttention``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.attention import Attention, find_attention
from medfm_compress.export.passes.graph import add_constant, constant, graph_of, static_shape, take_over
from medfm_compress.export.passes.projection import project

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"


def multi_head_attention(model: ir.Model) -> int:
    """Fuse in place; how many attentions were. Their queries, keys and values become layers of their own."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    attentions = [attention for attention in find_attention(model) if _on_tokens(attention)]
    for attention in attentions:
        _fuse(attention)
    if attentions:
        model.opset_imports[DOMAIN] = 1
        RemoveUnusedNodesPass()(model)
    return len(attentions)


def _on_tokens(attention: Attention) -> bool:
    """Where channels lie in front (CoAtNet), bringing them to the back costs more than the kernel saves."""
    layers = (attention.query.layer, attention.key.layer, attention.value.layer)
    return all(layer.axis == -1 for layer in layers) and len(attention.output.shape or ()) == 3


def _mask(attention: Attention) -> NDArray[Any] | None:
    """The sum of the masks as the kernel wants it, ``[1 or n, 1 or heads, tokens, tokens]``; None without any."""
    masks = [numbers for numbers in map(constant, attention.masks) if numbers is not None]
    if not masks:
        return None
    total = masks[0] if len(masks) == 1 else np.sum(np.broadcast_arrays(*masks), axis=0)
    total = total.reshape((1,) * (4 - total.ndim) + total.shape)
    tokens = (static_shape(attention.softmax.outputs[0]) or ())[2:]
    return np.ascontiguousarray(np.broadcast_to(total, (*total.shape[:2], *tokens)))


def _fuse(attention: Attention) -> None:
    import onnx_ir as ir

    softmax, graph = attention.softmax, graph_of(attention.softmax)
    before = softmax.outputs[0].consumers()[0]  # the values' own layer may stand behind the softmax
    scale = attention.scale * attention.query.scale * attention.key.scale
    inputs: list[ir.Value | None] = [
        project(attention.query, "query", scale, before),
        project(attention.key, "key", 1.0, before),
        project(attention.value, "value", attention.value.scale, before),
    ]
    mask = _mask(attention)
    if mask is not None:
        inputs += [None, None, add_constant(graph, f"{softmax.name}_mask", mask)]
    heads = attention.query.columns.shape[0]
    name = f"{softmax.name}_attention"
    node = ir.node(
        "MultiHeadAttention", inputs, {"num_heads": heads, "scale": 1.0}, domain=DOMAIN, num_outputs=1, name=name
    )
    graph.insert_before(before, node)
    take_over(attention.output, node.outputs[0])
