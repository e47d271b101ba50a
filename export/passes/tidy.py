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
    for graph in (model, _empty()):  # the rules keep the last graph that they looked at, and with it all its weights
        RewritePass(expand_before_binary_op_rules)(graph)
        optimizer.optimize_ir(graph, input_size_limit=_LIMIT, output_size_limit=_LIMIT)
    return before - len(model.graph)


def _empty() -> ir.Model:
    """A graph of one node that computes nothing worth keeping."""
    import onnx_ir as ir

    given = ir.val("x", dtype=ir.DataType.FLOAT, shape=[1])
    node = ir.node("Relu", [given])
    node.outputs[0].name = "y"
    return ir.Model(ir.Graph([given], node.outputs, nodes=[node], opset_imports={"": 20}), ir_version=10)
