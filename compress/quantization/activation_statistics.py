"""What calibration remembers of an activation: a few numbers and a histogram, updated case by case.

Extremes are exact over every value of every case. The histogram has `BINS` bins on ``[-bound, bound]``, the bound a
power of two: where a case exceeds it, the bound doubles and neighbouring bins merge, so that the histogram does not
depend on the order of the cases. It is filled from part of the values: every stride-th of the flattened tensor, the
stride a prime that divides no side of it (else it would visit some columns only), from an offset that moves on.

Statistics of channels are kept where a weighted layer reads the value: SmoothQuant needs their extremes, bias
correction their means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 8192  # at least 8 to one of 256 levels, whichever side of the bound the values lie on

_SAMPLES = 4096  # values of one case that enter the histogram, about
_SMALLEST_EXPONENT = -100  # of the first bound; all zeros lie within it


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """Of one activation over all calibration cases.

    Attributes:
        low: exact minimum.
        high: exact maximum.
        mean_low: mean over the cases of each case's minimum.
        mean_high: mean over the cases of each case's maximum.
        counts: ``int64[BINS]``, the histogram of part of the values on ``[-bound, bound]``; None where it is not
            known, for instance after a change of scale by channel: then only extremes are valid.
        bound: the histogram's end, a power of two.
        channel_low: ``float32[C]`` exact minimum of each channel, None where no weighted layer needs them.
        channel_high: ``float32[C]`` exact maximum of each channel.
        channel_mean: ``float32[C]`` mean of each channel over all positions and cases.
    """

    low: float
    high: float
    mean_low: float
    mean_high: float
    counts: NDArray[np.int64] | None
    bound: float
    channel_low: NDArray[np.float32] | None = None
    channel_high: NDArray[np.float32] | None = None
    channel_mean: NDArray[np.float32] | None = None


Statistics = Mapping[str, TensorStatistics]


class CaseStatistics(NamedTuple):
    """Of one activation in one case, or in one slice of cases.

    Attributes:
        low: minimum.
        high: maximum.
        sample: ``float32[k]``, the values that enter the histogram.
        channel_low: ``float32[C]``, minimum of each channel; None without channels.
        channel_high: ``float32[C]``.
        channel_mean: ``float64[C]``.
    """

    low: float
    high: float
    sample: NDArray[np.float32]
    channel_low: NDArray[np.float32] | None = None
    channel_high: NDArray[np.float32] | None = None
    channel_mean: NDArray[np.float64] | None = None


def case_statistics(values: NDArray[np.float32], channel_axis: int | None, turn: int) -> CaseStatistics | None:
    """Statistics of one case's activation, of any shape; None if it is not finite.

    Args:
        values: the activation.
        channel_axis: axis of which each index is a channel, None for no channel statistics.
        turn: number of the case; which values are sampled moves on with it.
    """
    if channel_axis is None:
        low, high = float(values.min()), float(values.max())
        finite = np.isfinite(low) and np.isfinite(high)
        return CaseStatistics(low, high, _sample(values, turn)) if finite else None
    others = tuple(i for i in range(values.ndim) if i != channel_axis % values.ndim)
    lows, highs = values.min(axis=others), values.max(axis=others)
    low, high = float(lows.min()), float(highs.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        return None
    with np.errstate(over="ignore"):
        means = values.mean(axis=others, dtype=np.float32).astype(np.float64)
    if not np.isfinite(means).all():
        return None
    return CaseStatistics(low, high, _sample(values, turn), lows, highs, means)


def _sample(values: NDArray[np.float32], turn: int) -> NDArray[np.float32]:
    stride = sampling_stride(values.size)
    return values.reshape(-1)[turn * (stride // 2 + 1) % stride :: stride].copy()


class RunningStatistics:
    """Statistics of one activation while the cases pass by."""

    def __init__(self, channel_axis: int | None) -> None:
        """``channel_axis``: see `case_statistics`."""
        self.axis = channel_axis
        self._cases = 0
        self._low, self._high = np.inf, -np.inf
        self._sum_low, self._sum_high = 0.0, 0.0
        self._histogram = _Histogram()
        self._channel_low: NDArray[np.float32] | None = None
        self._channel_high: NDArray[np.float32] | None = None
        self._channel_sum: NDArray[np.float64] | None = None

    def add(self, values: NDArray[np.float32]) -> bool:
        """Take in one case's activation, of any shape; returns False, and takes nothing in, if it is not finite."""
        case = case_statistics(values, self.axis, self._cases)
        if case is not None:
            self.take(case)
        return case is not None

    def take(self, case: CaseStatistics) -> None:
        """Take in what was measured of the next case; sums are rounded in the order in which cases come."""
        self._low, self._high = min(self._low, case.low), max(self._high, case.high)
        self._sum_low, self._sum_high = self._sum_low + case.low, self._sum_high + case.high
        self._histogram.add(case.sample, max(-case.low, case.high))
        self._cases += 1
        if self._channel_low is None or self._channel_high is None or self._channel_sum is None:
            self._channel_low, self._channel_high = case.channel_low, case.channel_high
            self._channel_sum = case.channel_mean
        elif case.channel_low is not None and case.channel_high is not None and case.channel_mean is not None:
            self._channel_low = np.minimum(self._channel_low, case.channel_low)
            self._channel_high = np.maximum(self._channel_high, case.channel_high)
            self._channel_sum = self._channel_sum + case.channel_mean

    def result(self) -> TensorStatistics:
        """The statistics of what was added so far, at least one case."""
        mean = None if self._channel_sum is None else (self._channel_sum / self._cases).astype(np.float32)
        return TensorStatistics(
            low=float(self._low),
            high=float(self._high),
            mean_low=self._sum_low / self._cases,
            mean_high=self._sum_high / self._cases,
            counts=self._histogram.counts.copy(),
            bound=self._histogram.bound,
            channel_low=self._channel_low,
            channel_high=self._channel_high,
            channel_mean=mean,
        )


class _Histogram:
    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.bound = float(2.0**_SMALLEST_EXPONENT)

    def add(self, sample: NDArray[np.float32], largest: float) -> None:
        self._widen(largest)
        index = np.floor(sample * np.float32(BINS / 2 / self.bound)).astype(np.int32) + BINS // 2  # powers of two
        self.counts += np.bincount(np.minimum(index, BINS - 1), minlength=BINS)

    def _widen(self, largest: float) -> None:
        if largest <= self.bound:
            return
        if not self.counts.any():
            self.bound = float(2.0 ** np.ceil(np.log2(largest)))
        while largest > self.bound:
            self.counts = merged(self.counts)
            self.bound *= 2


def merged(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The histogram on twice the bound: each pair of bins becomes one, around the same centre."""
    wider = np.zeros_like(counts)
    quarter = len(counts) // 4
    wider[quarter : 3 * quarter] = counts.reshape(-1, 2).sum(axis=1)
    return wider


@lru_cache(maxsize=256)
def sampling_stride(size: int) -> int:
    """A prime stride that leaves about 4096 of ``size`` values and divides ``size`` nowhere; 1 for few values."""
    stride = size // _SAMPLES
    if stride < 2:
        return 1
    while size % stride == 0 or not _is_prime(stride):
        stride += 1
    return stride


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
