"""SiLU as ONNX Runtime's one kernel, ``com.microsoft::QuickGelu``.

    SiLU(x) = x · sigmoid(x) = QuickGelu(x), alpha = 1

ONNX Runtime fuses a float graph's Sigmoid and Mul by itself, but not once each reads a DequantizeLinear of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm_compress.export.passes.graph import graph_of, maker, reads_alone, take_over

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"


def quick_gelu(model: ir.Model) -> int:
    """Fuse in place; how many SiLU were."""
    applied = sum(_fuse(node) for node in tuple(model.graph) if node.domain == "" and node.op_type == "Mul")
    if applied:
        model.opset_imports[DOMAIN] = 1
    return applied


def _fuse(node: ir.Node) -> bool:
    import onnx_ir as ir

    for value, gate in (tuple(node.inputs), tuple(node.inputs)[::-1]):
        sigmoid = maker(gate, "Sigmoid")
        if sigmoid is None or sigmoid.inputs[0] is not value or not reads_alone(node, sigmoid.outputs[0]):
            continue
        made = ir.node("QuickGelu", [value], {"alpha": 1.0}, domain=DOMAIN, name=f"{node.name}_silu")
        graph = graph_of(node)
        graph.insert_before(node, made)
        take_over(node.outputs[0], made.outputs[0])
        graph.remove(sigmoid, safe=True)
        return True
    return False
