"""From statistics to the interval that 256 levels cover. Which estimator is best is decided on validation cases.

- ``minmax``: the extremes over all cases. Nothing is clipped; one outlier makes every step coarse.
- ``percentile``: 99.99 % of the values from either side, from the histogram.
- ``mean-minmax``: the means of the cases' own extremes: what a typical case spans.
- ``mse``: the interval [l, h] with the least expected squared error of x clipped and rounded to 255 steps,

      Σ_{x<l} p(x)(x − l)² + Σ_{x>h} p(x)(x − h)² + P(l ≤ x ≤ h, x ≠ 0) Δ²/12,   Δ = (h − l)/255

  (Banner et al. 2019, https://arxiv.org/abs/1810.05723, with the histogram in place of a density family). Zeros, as
  ReLU makes them, cost nothing, because 0 is always a level.

Every interval holds 0: padding and ReLU must stay exact. Where an activation has no histogram, percentile and mse
fall back to minmax.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.activation_statistics import Statistics, TensorStatistics
from medfm_compress.runtime.errors import InputError

ESTIMATORS = ("minmax", "percentile", "mean-minmax", "mse")

_TAIL = 1e-4  # of the values, beyond either end of ``percentile``
_CANDIDATES = 192  # ends tried on each side by ``mse``
_STEPS = {False: 255, True: 254}  # symmetric: -127 to 127
_SMALLEST_WIDTH = 1e-12
_HARMLESS = 1.0  # the upper end where an activation is all zeros


class Range(NamedTuple):
    """What the levels cover: ``low`` <= 0 <= ``high``, ``low`` < ``high``."""

    low: float
    high: float


def estimate_ranges(statistics: Statistics, estimator: str, *, symmetric: bool = False) -> dict[str, Range]:
    """The range of every value in ``statistics``.

    Args:
        statistics: from `calibrate`.
        estimator: one of `ESTIMATORS`.
        symmetric: whether ``low`` must be -``high``, for signed levels around 0.

    Raises:
        InputError: an unknown estimator.
    """
    if estimator not in ESTIMATORS:
        raise InputError(f"no range estimator {estimator!r}; there are {', '.join(ESTIMATORS)}")
    done: dict[int, Range] = {}  # views share one object
    for tensor in statistics.values():
        if id(tensor) not in done:
            done[id(tensor)] = _usable(_ends(tensor, estimator, symmetric=symmetric), symmetric=symmetric)
    return {name: done[id(tensor)] for name, tensor in statistics.items()}


def _ends(tensor: TensorStatistics, estimator: str, *, symmetric: bool) -> tuple[float, float]:
    if estimator == "mean-minmax":
        return tensor.mean_low, tensor.mean_high
    if estimator == "minmax" or tensor.counts is None:
        return tensor.low, tensor.high
    if estimator == "percentile":
        return _percentiles(tensor.counts, tensor)
    return _least_squares(tensor.counts, tensor, symmetric=symmetric)


def _usable(ends: tuple[float, float], *, symmetric: bool) -> Range:
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    return Range(low, high) if high - low > _SMALLEST_WIDTH else Range(-_HARMLESS if symmetric else 0.0, _HARMLESS)


def _percentiles(counts: NDArray[np.int64], tensor: TensorStatistics) -> tuple[float, float]:
    edges = np.linspace(-tensor.bound, tensor.bound, len(counts) + 1)
    share = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    inside = np.concatenate([[True], counts > 0]) | np.concatenate([counts > 0, [True]])  # edges of filled bins
    low, high = np.interp([_TAIL, 1 - _TAIL], share[inside], edges[inside])
    return max(float(low), tensor.low), min(float(high), tensor.high)


def _least_squares(counts: NDArray[np.int64], tensor: TensorStatistics, *, symmetric: bool) -> tuple[float, float]:
    low, high = min(tensor.low, 0.0), max(tensor.high, 0.0)
    fractions = np.arange(1, _CANDIDATES + 1) / _CANDIDATES
    moments = _Moments(counts, tensor.bound)
    if symmetric:
        ends = max(-low, high) * fractions
        errors = moments.error(-ends, ends, _STEPS[True])
        best = float(ends[np.argmin(errors)])
        return -best, best
    lows, highs = np.meshgrid(low * fractions if low else np.zeros(1), high * fractions if high else np.zeros(1))
    errors = moments.error(lows, highs, _STEPS[False])
    index = np.unravel_index(np.argmin(errors), errors.shape)
    return float(lows[index]), float(highs[index])


class _Moments:
    """Cumulative moments of a histogram: clipping error in closed form, at any number of ends at once."""

    def __init__(self, counts: NDArray[np.int64], bound: float) -> None:
        edges = np.linspace(-bound, bound, len(counts) + 1)
        centres = (edges[:-1] + edges[1:]) / 2
        counts, zeros = _without_zeros(counts)
        p = counts / max(int(counts.sum() + zeros), 1)
        self._edges = edges
        self._sums = [np.concatenate([[0.0], np.cumsum(p * centres**k)]) for k in range(3)]

    def error(self, low: NDArray[np.float64], high: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
        """Expected squared error for each pair of ends."""
        below = [np.interp(low, self._edges, total) for total in self._sums]
        above = [total[-1] - np.interp(high, self._edges, total) for total in self._sums]
        inside = self._sums[0][-1] - below[0] - above[0]
        rounding: NDArray[np.float64] = inside * ((high - low) / steps) ** 2 / 12
        return rounding + _clipping(below, low) + _clipping(above, high)


def _clipping(moments: list[NDArray[np.float64]], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Σ p(x)(x − end)² = m₂ − 2·end·m₁ + end²·m₀, by the moments of what lies beyond the end."""
    error: NDArray[np.float64] = moments[2] - 2 * end * moments[1] + end**2 * moments[0]
    return np.maximum(error, 0.0)


def _without_zeros(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """The histogram without exact zeros, and their number: what the bin above 0 holds more than its neighbour."""
    middle = len(counts) // 2
    zeros = max(int(counts[middle] - counts[middle + 1]), 0)
    counts = counts.copy()
    counts[middle] -= zeros
    return counts, zeros
