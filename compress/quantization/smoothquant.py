"""SmoothQuant: outlier channels of activations are moved into the weights that read them, where they do no harm.

One scale serves a whole activation, so a channel 30 times larger than the rest costs the rest five bits; weights have
one scale an output channel and are flat. With X the activation and W the weight of the layers that read it,

    s_j = max|X_j|^α / max|W_j|^(1−α),    X_j ← X_j / s_j,    W_j ← W_j · s_j

for every input channel j (Xiao et al. 2023, https://arxiv.org/abs/2211.10438, eq. 4). The division is folded into the
LayerNorm before, or into the layer before where only ReLU, pooling and the like stand between (which is cross-layer
equalization, Nagel et al. 2019, https://arxiv.org/abs/1906.04721); no operator is added, so it costs no time. Where the
fold is impossible, as behind GELU or a residual sum, the layer is left as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.activation_statistics import Statistics, TensorStatistics
from medfm_compress.compress.quantization.calibrate import calibrate
from medfm_compress.compress.quantization.channel_rescaling import Group, finish, groups, input_maxima, rescale
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.network_inputs import NetworkInputs

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOOR = 1e-3  # of the largest channel: below it a channel is taken for dead, and its s must not explode


class Smoothed(NamedTuple):
    """Result of `smooth`.

    Attributes:
        model: a new model that computes the same.
        statistics: of the new model's activations. Those that were rescaled have exact extremes; without ``inputs``
            they have no histogram, so every range estimator answers minmax for them. An activation inside a group that
            has no channel statistics is missing, for its extremes are not known.
        layers: names of the layers whose weights changed; empty where nothing can be folded.
    """

    model: ir.Model
    statistics: Statistics
    layers: tuple[str, ...]


def smooth(
    model: ir.Model, statistics: Statistics, strength: float = 0.5, inputs: NetworkInputs | None = None
) -> Smoothed:
    """Move outliers of activations into weights, as far as that folds; ``model`` is left as it is.

    Args:
        model: a float graph.
        statistics: of its activations.
        strength: α in [0, 1]; 1 makes all channels of an activation equal, 0 those of the weight.
        inputs: some cases that give the rescaled activations a histogram anew; 16 or more.

    Raises:
        InputError: a strength outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise InputError(f"SmoothQuant's strength is {strength}; it must be between 0 and 1")
    new, updated, smoothed = model.clone(), dict(statistics), list[str]()
    for group in list(groups(new.graph)):
        largest = _largest(group, updated)
        if largest is None:
            continue
        factors = _factors(largest, group, strength)
        rescale(group, factors)
        _rescale_statistics(updated, group, factors)
        smoothed += [layer.name for layer in group.layers]
    finish(new)
    if inputs is not None and smoothed:
        updated = with_histograms(new, updated, inputs)
    return Smoothed(new, updated, tuple(smoothed))


def with_histograms(model: ir.Model, statistics: Statistics, inputs: NetworkInputs) -> dict[str, TensorStatistics]:
    """``statistics`` with what is missing in them taken from a few cases; the extremes over all cases stay."""
    measured = calibrate(_serialised(model), [inputs])
    return {
        name: replace(
            tensor,
            mean_low=measured[name].mean_low,
            mean_high=measured[name].mean_high,
            counts=measured[name].counts,
            bound=measured[name].bound,
        )
        if tensor.counts is None and name in measured and measured[name].counts is not None
        else tensor
        for name, tensor in statistics.items()
    }


def _serialised(model: ir.Model) -> bytes:
    import onnx_ir as ir

    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def _largest(group: Group, statistics: Statistics) -> NDArray[np.float64] | None:
    """max|X_j| over every place where a layer of ``group`` reads it; None where that was not measured."""
    largest = []
    for layer in group.layers:
        tensor = statistics.get(layer.input.name or "")
        if tensor is None or tensor.channel_low is None or tensor.channel_high is None:
            return None
        largest.append(np.maximum(-tensor.channel_low, tensor.channel_high).astype(np.float64))
    return np.max(largest, axis=0) if all(channels.size == group.channels for channels in largest) else None


def _factors(largest: NDArray[np.float64], group: Group, strength: float) -> NDArray[np.float64]:
    weights = np.max([input_maxima(layer) for layer in group.layers], axis=0)
    return smoothing_factors(largest, weights, strength)


def smoothing_factors(
    activations: NDArray[np.float64], weights: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """The s of the maxima of activations and weights, both ``[channels]``; see above."""
    return _alive(activations) ** strength / _alive(weights) ** (1 - strength)


def _alive(maxima: NDArray[np.float64]) -> NDArray[np.float64]:
    top = float(maxima.max())
    return np.maximum(maxima, _FLOOR * top) if top > 0 else np.ones_like(maxima)


def _rescale_statistics(statistics: dict[str, TensorStatistics], group: Group, factors: NDArray[np.float64]) -> None:
    for name in [value.name or "" for value in group.values]:
        tensor = statistics.pop(name, None)
        if tensor is not None and tensor.channel_low is not None:
            statistics[name] = divided(tensor, factors)


def divided(tensor: TensorStatistics, factors: NDArray[np.float64]) -> TensorStatistics:
    """Statistics of an activation, with channels, that is divided by ``factors``; it has no histogram."""
    low, high, mean = (
        None if values is None else (values / factors).astype(np.float32)
        for values in (tensor.channel_low, tensor.channel_high, tensor.channel_mean)
    )
    assert low is not None and high is not None  # noqa: S101 - kept together with the mean
    ends = float(low.min()), float(high.max())
    return replace(
        tensor,
        **dict(zip(("low", "high", "mean_low", "mean_high"), (*ends, *ends), strict=True)),
        counts=None,
        channel_low=low,
        channel_high=high,
        channel_mean=mean,
    )
