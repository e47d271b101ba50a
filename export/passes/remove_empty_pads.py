"""Drop a Pad that pads nothing, as exporters write it where a size happens to be a multiple of the window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm_compress.export.passes.graph import constant, graph_of, maker

if TYPE_CHECKING:
    import onnx_ir as ir


def remove_empty_pads(model: ir.Model) -> int:
    """Drop in place; how many were. What a Pad read keeps its name; one between input and output of a graph stays."""
    return sum(_remove(node) for node in tuple(model.graph) if node.domain == "" and node.op_type == "Pad")


def _remove(node: ir.Node) -> bool:
    value, widths = node.inputs[0], constant(node.inputs[1])
    output = node.outputs[0]
    if value is None or widths is None or widths.any() or output.is_graph_output():
        return False
    output.replace_all_uses_with(value)
    graph_of(node).remove(node, safe=True)
    _join_views(value)
    return True


def _join_views(value: ir.Value) -> None:
    """Views of a view, now that no Pad stands between them, read what the first one read."""
    viewed = maker(value, "Reshape")
    if viewed is None:
        return
    for user in value.consumers():
        sizes = constant(user.inputs[1]) if user.domain == "" and user.op_type == "Reshape" else None
        if sizes is not None and (sizes != 0).all():
            user.replace_input_with(0, viewed.inputs[0])
