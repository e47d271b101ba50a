"""HardSwish and Mish as products, for TensorRT in BF16, which takes the single operators in FP32 and FP16 only.

HardSwish(x) = x · HardSigmoid(x),  with α = 1/6, β = 1/2
Mish(x)      = x · tanh(softplus(x))
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from medfm_compress.export.passes.graph import insert, take_over

if TYPE_CHECKING:
    import onnx_ir as ir


def expand_activations(model: ir.Model, keep: Collection[str] = ()) -> int:
    """Expand, in place, those that are not called as in ``keep``; how many."""
    nodes = [node for node in model.graph if node.op_type in ("HardSwish", "Mish") and node.name not in keep]
    for node in nodes:
        _expand(node)
    return len(nodes)


def _expand(node: ir.Node) -> None:
    entering, result = node.inputs[0], node.outputs[0]
    name = result.name or node.op_type
    if node.op_type == "HardSwish":
        gate = insert(node, "HardSigmoid", [entering], f"{name}_gate", {"alpha": 1 / 6, "beta": 0.5})
        gates = [gate]
    else:
        softplus = insert(node, "Softplus", [entering], f"{name}_softplus")
        gates = [softplus, insert(node, "Tanh", [softplus], f"{name}_gate")]
    gates.append(insert(node, "Mul", [entering, gates[-1]], f"{name}_gated"))
    for value in gates:
        value.shape, value.type = result.shape, result.type
        maker = value.producer()
        if maker is not None:
            maker.metadata_props.update(node.metadata_props)
    take_over(result, gates[-1])
