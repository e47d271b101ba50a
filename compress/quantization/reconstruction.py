"""Layer by layer, weights and biases that give the float network's results from the quantized network's inputs.

The quantized and the float network are run side by side on calibration cases, up to one layer at a time. There, with x
what the quantized network feeds the layer and y what the layer gives in the float network:

1. ``W ← W + C (H + λI)⁻¹``: least squares towards y, with H, C of `layer_moments`. λ, or no change at all, is what is
   best for the half of the cases that the change was not fitted to.
2. W is rounded with H (`gptq_rounding`), or to the nearest, whichever keeps (q − w)ᵀ H (q − w) smaller.
3. ``b ← b + mean(y − W_q x)``: bias correction from real runs (Nagel et al. 2021, https://arxiv.org/abs/2106.08295,
   section 3.3), which sees clipping and every error before this layer too.

Then both go on to the next layer, with what was changed in place. Least squares towards the float result from quantized
inputs is the asymmetric calibration of Li et al. 2025 (https://arxiv.org/abs/2504.02692). The speed stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.bias_correction import add_to_bias
from medfm_compress.compress.quantization.gptq_rounding import damping, round_by_moments
from medfm_compress.compress.quantization.layer_moments import Moments, grouped, is_supported, measure, ungrouped
from medfm_compress.compress.quantization.partial_runs import PartialRuns
from medfm_compress.compress.quantization.qdq import Placement, write_qdq
from medfm_compress.compress.quantization.weights import (
    LIMIT,
    REDUCED_LIMIT,
    Layer,
    QuantizedWeight,
    constant,
    layers,
    quantize_weight,
)
from medfm_compress.export.passes.graph import add_constant, graph_of, remove_unused

if TYPE_CHECKING:
    import onnx_ir as ir

_DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)  # λ over the mean of H's diagonal
_LEAST_GAIN = 0.02  # of the missing energy on cases that were not fitted, below which weights stay

Steps = Literal["bias", "all"]


class Reconstructed(NamedTuple):
    """A float graph with new biases, and the INT8 weights of its layers by node name."""

    model: ir.Model
    weights: dict[str, QuantizedWeight]


def reconstruct(
    model: ir.Model,
    placement: Placement,
    ranges: Mapping[str, tuple[float, float]],
    inputs: NDArray[np.float32],
    *,
    refit: bool = True,
    gptq: bool = True,
) -> Reconstructed:
    """See above; ``model`` is left as it is.

    Args:
        model: a float graph.
        placement: where it will be quantized.
        ranges: of its activations.
        inputs: calibration cases ``[n, C, H, W]``.
        refit: weights too, not only biases.
    """
    new = model.clone()
    float_run = PartialRuns(model, inputs)
    quantized = write_qdq(model, msgspec.structs.replace(placement, layers=(), biases=False), ranges)
    quantized_run = PartialRuns(quantized, inputs)
    targets = {layer.name: layer for layer in layers(new.graph)}
    weights: dict[str, QuantizedWeight] = {}
    for layer in [layer for layer in layers(quantized.graph) if layer.name in placement.layers]:
        if not is_supported(layer):
            continue
        float_run.run_until(layer.name)
        quantized_run.run_until(layer.name)
        wanted = float_run.try_next()
        weight = _quantized(layer, quantized_run, wanted, reduced=placement.reduced, refit=refit, gptq=gptq)
        weights[layer.name] = weight
        _use(layer, weight)
        results = quantized_run.try_next()
        shift = _mean_missing(layer, results, wanted)
        quantized_run.set_next([result + _along(layer, result, shift) for result in results])
        float_run.set_next(wanted)
        add_to_bias(targets[layer.name], shift)
    remove_unused(new)
    return Reconstructed(new, weights)


def _quantized(layer, run, wanted, *, reduced, refit, gptq) -> QuantizedWeight:
    float_weight = constant(layer.weight)
    if not (refit or gptq):
        return quantize_weight(float_weight, layer.axis, reduced=reduced)
    rows = grouped(layer, float_weight)
    missing = [y - y_q for y, y_q in zip(wanted, run.try_next(), strict=True)]
    halves = measure(layer, rows, run.value(str(layer.input.name)), missing)
    if refit:
        rows = rows + least_squares(halves)
    weight = ungrouped(layer, rows, float_weight.shape)
    nearest = quantize_weight(weight, layer.axis, reduced=reduced)
    if not gptq:
        return nearest
    square, _ = sum(halves[1:], halves[0]).centred()
    steps = nearest.scales.reshape(rows.shape[0], rows.shape[1], 1)
    by_moments = round_by_moments(rows / steps, square, REDUCED_LIMIT if reduced else LIMIT)
    choices = np.stack([grouped(layer, nearest.values), by_moments])
    errors = choices - rows / steps
    costs = np.einsum("cgok,cgok->cgo", errors @ square, errors)
    best = np.where((costs[1] < costs[0])[..., None], choices[1], choices[0])
    return QuantizedWeight(ungrouped(layer, best, float_weight.shape), nearest.scales)


def least_squares(halves: Sequence[Moments], dampings: Sequence[float] = _DAMPINGS) -> NDArray[np.float32]:
    """ΔW ``[G, O/G, K]``, or zeros where none helps on cases that it was not fitted to."""
    gains = [0.0] * len(dampings)
    scale = 0.0
    for fitted, held_out in (halves, halves[::-1]) if len(halves) == 2 else ():
        square, cross = held_out.centred()
        for i, share in enumerate(dampings):
            change = _solution(fitted, share)
            gains[i] += float(2 * (change * cross).sum() - ((change @ square) * change).sum())
    best = int(np.argmax(gains))
    if gains[best] <= 0:
        return np.zeros_like(halves[0].cross)
    return _solution(sum(halves[1:], halves[0]), dampings[best])


def _solution(moments: Moments, share: float) -> NDArray[np.float32]:
    square, cross = moments.centred()
    square = square + damping(square, share)[:, None, None] * np.eye(square.shape[1], dtype=np.float32)
    return np.asarray(np.linalg.solve(square, cross.transpose(0, 2, 1)).transpose(0, 2, 1))


def _mean_missing(layer, results, wanted) -> NDArray[np.float32]:
    axes = (0, *range(2, results[0].ndim)) if layer.node.op_type == "Conv" else tuple(range(results[0].ndim - 1))
    return np.mean([(y - y_q).mean(axis=axes) for y, y_q in zip(wanted, results, strict=True)], axis=0, dtype=np.float32)


def _along(layer, result, shift):
    return shift.reshape(-1, *[1] * (result.ndim - 2)) if layer.node.op_type == "Conv" else shift


def _use(layer: Layer, weight: QuantizedWeight) -> None:
    shape = [-1 if axis == layer.axis else 1 for axis in range(weight.values.ndim)]
    array = weight.values * weight.scales.reshape(shape)
    layer.node.replace_input_with(1, add_constant(graph_of(layer.node), f"{layer.name}_reconstructed", array.astype(np.float32)))
