"""Bias correction: rounding a weight shifts the mean of what the layer gives; the bias takes the shift out.

With ε = W_q − W of an output channel and E[x] the mean of the input over cases and positions,

    b ← b − Σ_j ε_j E[x_j]

(Nagel et al. 2019, https://arxiv.org/abs/1906.04721, section 4.2). For Conv, ε is summed over the kernel: where the
padding's zeros take part the mean differs, which is neglected. It needs no run of the network and costs no time in it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.activation_statistics import Statistics, TensorStatistics
from medfm_compress.compress.quantization.weights import Layer, attribute, constant, layers, quantize_weight
from medfm_compress.export.passes.graph import SAME_AS, add_constant, graph_of, remove_unused

if TYPE_CHECKING:
    import onnx_ir as ir


def correct_biases(
    model: ir.Model, statistics: Statistics, *, exclude: Collection[str] = (), reduced: bool = False
) -> ir.Model:
    """A new model whose biases make up for the rounding of its weights; ``model`` is left as it is.

    Args:
        model: a float graph.
        statistics: of its activations; a layer whose input's channel means are not known is left as it is.
        exclude: names of layers that will stay in float.
        reduced: weights will have 7 bits.
    """
    new = model.clone()
    for layer in [layer for layer in layers(new.graph) if layer.name not in exclude]:
        means = _means(layer, statistics)
        shift = None if means is None else mean_error(layer, means, reduced=reduced)
        if shift is not None and np.any(shift):
            _add(layer, (-shift).astype(np.float32))
    remove_unused(new)
    return new


def mean_error(layer: Layer, means: NDArray[np.float32], *, reduced: bool = False) -> NDArray[np.float64] | None:
    """Mean error of each output channel from rounding the weight; None where ``means`` do not fit its channels.

    Args:
        layer: a Conv, Gemm or MatMul.
        means: E[x] of each input channel.
        reduced: weights of 7 bits.
    """
    weight = constant(layer.weight)
    assert weight is not None  # noqa: S101 - a layer has a constant weight
    values, scales = quantize_weight(weight, layer.axis, reduced=reduced)
    shape = [-1 if axis == layer.axis else 1 for axis in range(weight.ndim)]
    error = values * scales.astype(np.float64).reshape(shape) - weight
    if layer.node.op_type == "Conv":
        return _of_conv(error, means, int(attribute(layer.node, "group", 1)))
    if layer.node.op_type == "ConvTranspose" or weight.ndim != 2 or weight.shape[1 - layer.axis] != means.size:
        return None
    scale = float(attribute(layer.node, "alpha", 1.0))
    return np.asarray(scale * (means @ error if layer.axis == 1 else error @ means))


def _of_conv(error: NDArray[np.float64], means: NDArray[np.float32], count: int) -> NDArray[np.float64] | None:
    kernel = error.reshape(*error.shape[:2], -1).sum(axis=2)
    if kernel.shape[1] * count != means.size:
        return None
    means_by_input = np.repeat(means.reshape(count, -1), len(kernel) // count, axis=0)
    return np.asarray((kernel * means_by_input).sum(axis=1))


def _means(layer: Layer, statistics: Statistics) -> NDArray[np.float32] | None:
    value = layer.input
    known: TensorStatistics | None = statistics.get(value.name or "") or statistics.get(
        value.metadata_props.get(SAME_AS, "")
    )
    return None if known is None else known.channel_mean


def _add(layer: Layer, shift: NDArray[np.float32]) -> None:
    bias = layer.bias
    graph = graph_of(layer.node)
    if bias is not None:
        scale = float(attribute(bias.node, "beta", 1.0))
        corrected = add_constant(graph, f"{layer.name}_bias_corrected", bias.values + shift / np.float32(scale))
        bias.node.replace_input_with(bias.slot, corrected)
    elif layer.node.op_type == "MatMul":
        _append(layer, add_constant(graph, f"{layer.name}_bias_corrected", shift))
    elif len(layer.node.inputs) < 3 or layer.node.inputs[2] is None:
        layer.node.resize_inputs(3)
        layer.node.replace_input_with(2, add_constant(graph, f"{layer.name}_bias_corrected", shift))


def _append(layer: Layer, shift: ir.Value) -> None:
    """A sum behind a matrix product, which takes over the name of the product: so it keeps its range."""
    import onnx_ir as ir

    product = layer.node.outputs[0]
    name = product.name
    added = ir.node("Add", [product, shift], name=f"{layer.name}_add_bias")
    result = added.outputs[0]
    product.replace_all_uses_with(result, replace_graph_outputs=True)
    added.replace_input_with(0, product)
    product.name, result.name = f"{name}_before_bias", name
    result.shape, result.type = product.shape, product.type
    graph_of(layer.node).insert_after(layer.node, added)
