"""The layers that read columns beside the image alone: they stay in float.

They are a few thousand products and cost nothing, and an age in one byte would be known to half a year.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def column_branch(model: ir.Model) -> tuple[str, ...]:
    """Names of the nodes whose activations all come from columns, which are the graph's inputs after its first."""
    columns = {value.name for value in model.graph.inputs[1:]}
    names: list[str] = []
    if not columns:
        return ()
    for node in model.graph:
        read = [value for value in node.inputs if value is not None and not _is_constant(value)]
        if read and all(value.name in columns for value in read):
            columns.update(value.name for value in node.outputs)
            names.append(str(node.name))
    return tuple(names)


def _is_constant(value: ir.Value) -> bool:
    maker = value.producer()
    return value.const_value is not None or (maker is not None and maker.op_type == "Constant")
