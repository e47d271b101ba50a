"""A MatMul by a constant, with the Add behind it, as one Gemm: on two axes, so `flatten_tokens` comes first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm_compress.export.passes.graph import add_constant, graph_of, static_shape, take_over
from medfm_compress.export.passes.layers import layer_of

if TYPE_CHECKING:
    import onnx_ir as ir


def matmul_to_gemm(model: ir.Model) -> int:
    """Rewrite in place; how many were. The Gemm keeps the MatMul's name, its result that of the sum."""
    return sum(_rewrite(node) for node in tuple(model.graph) if node.op_type == "MatMul")


def _rewrite(node: ir.Node) -> bool:
    import onnx_ir as ir

    layer = layer_of(node)
    shape = static_shape(node.outputs[0])
    if layer is None or layer.add is None or layer.bias is None or shape is None or len(shape) != 2:
        return False
    graph = graph_of(node)
    addends = [value for value in layer.add.inputs if value is not None and value is not node.outputs[0]]
    bias = addends[0] if static_shape(addends[0]) == (layer.channels,) else None
    bias = bias or add_constant(graph, f"{node.name}_bias", layer.bias)
    gemm = ir.node("Gemm", [*node.inputs, bias], name=node.name)
    graph.insert_before(node, gemm)
    take_over(layer.output, gemm.outputs[0])
    graph.remove(node, safe=True)
    return True
