"""What onnxscript's optimizer does for every graph: constants, identities, no-ops, duplicates, BatchNorm → Conv."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

_LIMIT = 2**20  # largest constant, in numbers, that is read or written: a table of position biases has some 10^5


def tidy(model: ir.Model) -> int:
    """Tidy in place; how many nodes went."""
    from onnxscript import optimizer
    from onnxscript.rewriter import RewritePass
    from onnxscript.rewriter.rules.common import expand_before_binary_op_rules

    before = len(model.graph)
    RewritePass(expand_before_binary_op_rules)(model)
    optimizer.optimize_ir(model, input_size_limit=_LIMIT, output_size_limit=_LIMIT)
    return before - len(model.graph)
