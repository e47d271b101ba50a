"""GELU that an exporter wrote out, as the one operator that ONNX has for it since opset 20.

    GELU(x) = 0.5 · x · (1 + erf(x / √2))

Engines find the parts in a float graph by themselves, but not once each reads a DequantizeLinear of its own; and a
placement that sees parts cannot know that they stay in float together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.export.passes.graph import constant, insert, maker, only_user, take_over

if TYPE_CHECKING:
    import onnx_ir as ir

LEAST_OPSET = 20
_NEAR = 1e-4  # exporters write √2 with 5 digits or more


def gelu_of_parts(model: ir.Model) -> int:
    """Fuse in place; how many were."""
    if model.opset_imports.get("", 0) < LEAST_OPSET:
        return 0
    return sum(_fuse(node) for node in tuple(model.graph) if node.domain == "" and node.op_type == "Erf")


def _fuse(erf: ir.Node) -> bool:
    source = _scaled(erf.inputs[0], 1 / math.sqrt(2))
    add = only_user(erf.outputs[0])
    if source is None or add is None or add.op_type != "Add" or not any(_is(value, 1) for value in add.inputs):
        return False
    product = _times_half_and(add.outputs[0], source)
    if product is None:
        return False
    last = product.producer()
    assert last is not None  # noqa: S101 - it is a product
    take_over(product, insert(last, "Gelu", [source], f"{product.name}_gelu"))
    return True


def _times_half_and(value: ir.Value, source: ir.Value) -> ir.Value | None:
    """``value`` · 0.5 · ``source``, in whichever order it was written; None where that is not what is made of it."""
    halved = multiplied = False
    while not (halved and multiplied):
        product = only_user(value)
        if product is None or product.op_type != "Mul":
            return None
        other = product.inputs[0] if product.inputs[1] is value else product.inputs[1]
        if not halved and _is(other, 0.5):
            halved = True
        elif not multiplied and other is source:
            multiplied = True
        elif not (halved or multiplied) and _scaled(other, 0.5) is source:
            halved = multiplied = True
        else:
            return None
        value = product.outputs[0]
    return value


def _scaled(value: ir.Value | None, factor: float) -> ir.Value | None:
    """What ``value`` is ``factor`` times of; None where it is no such product or quotient."""
    node = maker(value, "Mul", "Div")
    if node is None:
        return None
    first, second = node.inputs
    if node.op_type == "Div":
        return first if _is(second, 1 / factor) else None
    return first if _is(second, factor) else second if _is(first, factor) else None


def _is(value: ir.Value | None, number: float) -> bool:
    known = constant(value)
    return known is not None and known.size == 1 and bool(np.isclose(float(known.reshape(())), number, rtol=_NEAR))
