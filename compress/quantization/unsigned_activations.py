"""Signed bytes of activations become unsigned ones, which ONNX Runtime's kernels are made for; no value changes.

``round(x / s) + z`` clipped to [-128, 127] is, 128 higher, ``round(x / s) + (z + 128)`` clipped to [0, 255], and
``s · (q − z)`` stays what it was. Stored weights stay signed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.compress.quantization.weights import add_initializer, constant, is_constant

if TYPE_CHECKING:
    import onnx_ir as ir

_SHIFT = 128


def make_unsigned(model: ir.Model) -> int:
    """Change, in place, every S8 pair of QuantizeLinear and DequantizeLinear on an activation; how many there were."""
    import onnx_ir as ir

    pairs = [node for node in model.graph if node.op_type == "QuantizeLinear" and _is_signed_pair(node)]
    for node in pairs:
        point = constant(node.inputs[2])
        if point is None:
            continue
        shifted = (point.astype(np.int64) + _SHIFT).astype(np.uint8)
        value = add_initializer(model.graph, f"{node.inputs[2].name}_unsigned_{node.name}", shifted)
        for user in (node, *(use.node for use in node.outputs[0].uses())):
            user.replace_input_with(2, value)
        node.outputs[0].type = ir.TensorType(ir.DataType.UINT8)
    return len(pairs)


def _is_signed_pair(node: ir.Node) -> bool:
    """Whether it quantizes an activation to S8 for DequantizeLinear alone."""
    point = node.inputs[2] if len(node.inputs) > 2 else None
    array = None if point is None else constant(point)
    users = [use.node for use in node.outputs[0].uses()]
    dequantized = all(user.op_type == "DequantizeLinear" and len(user.inputs) > 2 for user in users)
    signed = array is not None and array.dtype == np.int8
    return bool(signed and users and dequantized and not is_constant(node.inputs[0]))
