"""Dynamic INT8 for ONNX Runtime: products with constant weights in bytes, each input's range found as it arrives.

Every MatMul and Gemm with a constant weight becomes one ``com.microsoft::DynamicQuantizeMatMul``: the input U8 with
its own range, the weight S8 with one scale a channel, the bias in float. Nothing is calibrated, so nothing can clip;
finding the range costs one more pass over the input. Convolutions have no such kernel worth running: they stay float.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.compress.quantization.weights import (
    Bias,
    Layer,
    add_initializer,
    attribute,
    constant,
    layers,
    quantize_weight,
    take_place,
)

if TYPE_CHECKING:
    import onnx_ir as ir

DOMAIN = "com.microsoft"


def quantize_dynamic(model: ir.Model, exclude: Collection[str] = (), *, reduced: bool = False) -> ir.Model:
    """A new model for ONNX Runtime alone; equal to ``model`` where no layer can be quantized.

    Args:
        model: float32.
        exclude: names of layers that stay in float.
        reduced: 7-bit weights, for CPUs without VNNI.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    quantized = model.clone()
    products = [layer for layer in layers(quantized.graph) if layer.name not in exclude and _is_product(layer)]
    shared: dict[tuple[str, int], tuple[ir.Value, ir.Value]] = {}
    for layer in products:
        _replace(quantized.graph, layer, shared, reduced=reduced)
    if products:
        quantized.opset_imports[DOMAIN] = 1
        RemoveUnusedNodesPass()(quantized)
    return quantized


def _is_product(layer: Layer) -> bool:
    node = layer.node
    if node.op_type == "MatMul":
        return len(layer.weight.shape or ()) == 2
    plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
    return bool(node.op_type == "Gemm" and plain and (len(node.inputs) < 3 or layer.bias is not None))


def _replace(
    graph: ir.Graph, layer: Layer, shared: dict[tuple[str, int], tuple[ir.Value, ir.Value]], *, reduced: bool
) -> None:
    import onnx_ir as ir

    bias = layer.bias
    last = layer.node if bias is None else bias.node
    key = layer.weight.name or layer.name, layer.axis
    if key not in shared:
        shared[key] = _weight(graph, layer, reduced=reduced)
    inputs = [layer.input, *shared[key], None, _value(bias)]
    node = ir.node("DynamicQuantizeMatMul", inputs, domain=DOMAIN, name=layer.name)
    take_place(graph, last, node)
    for old in dict.fromkeys((last, layer.node)):
        graph.remove(old, safe=True)


def _value(bias: Bias | None) -> ir.Value | None:
    return None if bias is None else bias.node.inputs[bias.slot]


def _weight(graph: ir.Graph, layer: Layer, *, reduced: bool) -> tuple[ir.Value, ir.Value]:
    array = constant(layer.weight)
    assert array is not None  # noqa: S101 - a layer has a constant weight
    values, scales = quantize_weight(array, layer.axis, reduced=reduced)
    stored = values if layer.axis == 1 else np.ascontiguousarray(values.T)
    name = f"{layer.weight.name}_{layer.axis}"
    return add_initializer(graph, f"{name}_quantized", stored), add_initializer(graph, f"{name}_scale", scales)
