"""LayerNorm over the last axis with all axes but the first and the last in one.

    [n, H, W, channels] → [n, H * W, channels]

OpenVINO has a kernel for it on three axes (MVN); on four it takes mean, difference and root mean square apart, with
float32 in between. A Reshape moves nothing.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from medfm_compress.export.passes.graph import (
    SAME_AS,
    add_shape,
    attribute,
    constant,
    graph_of,
    insert,
    maker,
    set_integer,
    shaped,
    static_shape,
)

if TYPE_CHECKING:
    import onnx_ir as ir


def layer_norm_on_tokens(model: ir.Model) -> int:
    """Rewrite in place; how many were."""
    return sum(_rewrite(node) for node in tuple(model.graph) if node.op_type == "LayerNormalization")


def _rewrite(node: ir.Node) -> bool:
    value, output = node.inputs[0], node.outputs[0]
    shape = static_shape(value)
    if value is None or shape is None or len(shape) < 4 or node.domain != "" or len(node.outputs) != 1:
        return False
    if attribute(node, "axis", -1) not in (-1, len(shape) - 1) or output.is_graph_output():
        return False
    tokens = (shape[0], prod(shape[1:-1]), shape[-1])
    node.replace_input_with(0, _reshape(node, value, tokens, f"{value.name}_as_tokens"))
    set_integer(node, "axis", -1)
    others = [use for use in output.uses() if not _reshapes(use.node)]
    name, output.name = str(output.name), f"{output.name}_tokens"
    shaped(output, tokens, output)
    if others:
        behind = graph_of(node)[graph_of(node).index(node) + 1]  # there is one: the output is read
        restored = _reshape(behind, output, shape, f"{name}_restored")
        restored.name = name
        for user, index in others:
            user.replace_input_with(index, restored)
    return True


def _reshapes(node: ir.Node) -> bool:
    """To sizes that it says in full, so that it may read the same numbers in any shape."""
    sizes = constant(node.inputs[1]) if node.domain == "" and node.op_type == "Reshape" else None
    return sizes is not None and bool((sizes != 0).all())


def _reshape(before: ir.Node, value: ir.Value, shape: tuple[int, ...], name: str) -> ir.Value:
    """``value`` in another shape, from what it was reshaped from where it was."""
    viewed = maker(value, "Reshape")
    source = viewed.inputs[0] if viewed is not None and viewed.inputs[0] is not None else value
    if static_shape(source) == shape:
        return source
    made = insert(before, "Reshape", [source, add_shape(graph_of(before), shape)], name)
    made.metadata_props[SAME_AS] = source.name or ""
    return shaped(made, shape, value)
