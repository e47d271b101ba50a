"""SmoothQuant where nothing takes up the division: one multiplication by 1/s a channel, in front of the rounding.

    X_j ← X_j · (1/s_j),    W_j ← W_j · s_j,    s_j = max|X_j|^α / max|W_j|^(1−α)

as in `smoothquant`, for matrix products that read what a residual sum or attention reads too (a transformer that
normalises behind its sums, such as BERT) or what GELU gives. Here s is taken in units of its median and never below 1:
loud channels are divided, quiet ones are not multiplied, which would blow up what GELU lets through below 0.

The multiplication costs a pass over the activation, a few percent of the product's time; engines with fused elementwise
chains put it into the rounding itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.activation_statistics import Statistics
from medfm_compress.compress.quantization.channel_rescaling import (
    Group,
    input_channels,
    input_maxima,
    rescale,
)
from medfm_compress.compress.quantization.smoothquant import (
    Smoothed,
    divided,
    smoothing_factors,
    with_histograms,
)
from medfm_compress.compress.quantization.weights import Layer, layers
from medfm_compress.export.passes.graph import add_constant, graph_of, remove_unused
from medfm_compress.runtime.network_inputs import NetworkInputs

if TYPE_CHECKING:
    import onnx_ir as ir

_WORTH = 4.0  # largest channel over the median one, below which one range serves all


def smooth_explicitly(
    model: ir.Model, statistics: Statistics, strength: float = 0.5, inputs: NetworkInputs | None = None
) -> Smoothed:
    """A new model with multiplications where outlier channels enter matrix products; ``model`` is left as it is.

    Args:
        model: a float graph, after `smoothquant.smooth` where that applies.
        statistics: of its activations.
        strength: α in [0, 1].
        inputs: some cases that give the new activations a histogram; 16 or more.
    """
    new, updated, smoothed = model.clone(), dict(statistics), list[str]()
    for value, readers in list(_read_by_products(new.graph)):
        tensor = statistics.get(str(value.name))
        if tensor is None or tensor.channel_low is None or tensor.channel_high is None:
            continue
        largest = np.maximum(-tensor.channel_low, tensor.channel_high).astype(np.float64)
        if any(input_channels(layer) != largest.size for layer in readers):
            continue
        if largest.max() < _WORTH * np.median(largest):
            continue
        factors = smoothing_factors(largest, np.max([input_maxima(layer) for layer in readers], axis=0), strength)
        factors = np.maximum(factors / np.median(factors), 1.0)
        quotient = _divide(value, readers, factors)
        rescale(Group(readers[0].node, -1, largest.size, (), tuple(readers), ()), factors)
        updated[str(quotient.name)] = divided(tensor, factors)
        smoothed += [layer.name for layer in readers]
    remove_unused(new)
    if inputs is not None and smoothed:
        updated = with_histograms(new, updated, inputs)
    return Smoothed(new, updated, tuple(smoothed))


def _read_by_products(graph: ir.Graph) -> Iterator[tuple[ir.Value, list[Layer]]]:
    readers: dict[ir.Value, list[Layer]] = {}
    for layer in layers(graph):
        if layer.node.op_type in ("MatMul", "Gemm"):
            readers.setdefault(layer.input, []).append(layer)
    yield from readers.items()


def _divide(value: ir.Value, readers: list[Layer], factors: NDArray[np.float64]) -> ir.Value:
    """The product of ``value`` with 1/``factors``, which ``readers`` read from now on."""
    import onnx_ir as ir

    graph = graph_of(readers[0].node)
    reciprocals = add_constant(graph, f"{value.name}_reciprocals", (1 / factors).astype(np.float32))
    node = ir.node("Mul", [value, reciprocals], name=f"{value.name}_divide")
    result = node.outputs[0]
    result.name, result.shape, result.type = f"{value.name}_divided", value.shape, value.type
    for layer in readers:
        layer.node.replace_input_with(0, result)
    first = min(readers, key=lambda layer: list(graph).index(layer.node))
    graph.insert_before(first.node, node)
    return result
