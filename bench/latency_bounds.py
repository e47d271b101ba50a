"""Bounds of a latency percentile from order statistics: no assumption on how latencies are distributed.

Of n samples, K = number below the true q-quantile is binomial(n, q). With l the largest rank for which P(K < l) <= α/2
and u the smallest for which P(K >= u) <= α/2, the interval [x_(l), x_(u)] holds the quantile with a chance of at least
1 − α. Too few samples have no such rank: below, 0 bounds a latency; above, nothing does. At 95% the 99th percentile
needs 368 samples for an upper bound. Source: Le Boudec, Performance Evaluation of Computer and Communication Systems,
2010, section 2.2.2 and appendix A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from medfm_compress.bench.types import Interval

LEVEL = 0.95
METHOD = "order statistics"
_SHORT = ", with fewer samples than {level:.0%} takes: up to the largest"


def percentile_bounds(samples: Sequence[float], q: float) -> Interval:
    """Quantile ``q`` in (0, 1) of ``samples`` (at least one, ms), with its 95% interval; ``high`` may be infinite."""
    ordered, n = np.sort(np.asarray(samples, dtype=np.float64)), len(samples)
    below = _binomial_cdf(n, q)
    tail = (1 - LEVEL) / 2
    # Rank r is 1-based; P(K < r) = below[r - 1] and P(K >= r) = 1 − below[r − 1], where below[0] belongs to K = 0.
    lower = int(np.searchsorted(below, tail, side="right"))
    upper = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return Interval(
        estimate=float(np.quantile(ordered, q)),
        low=float(ordered[lower - 1]) if lower >= 1 else 0.0,
        high=float(ordered[upper - 1]) if upper <= n else math.inf,
        level=LEVEL,
        method=METHOD,
    )


def finite(bounds: Interval, samples: Sequence[float], q: float) -> Interval:
    """``bounds`` for a report, which has no infinity: up to the largest sample, at the level that this really has."""
    if math.isfinite(bounds.high):
        return bounds
    level = max(0.0, (1 + LEVEL) / 2 - q ** len(samples))
    return msgspec.structs.replace(
        bounds, high=float(max(samples)), level=level, method=METHOD + _SHORT.format(level=LEVEL)
    )


def samples_for_upper_bound(q: float) -> int:
    """Samples from which on quantile ``q`` has an upper bound: q^n <= α/2."""
    return math.ceil(math.log((1 - LEVEL) / 2) / math.log(q))


def _binomial_cdf(n: int, q: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """P(K <= k) for k = 0 … n, from logarithms, which do not underflow."""
    k = np.arange(n + 1)
    logs = np.array([math.lgamma(value + 1) for value in range(n + 1)])
    return np.cumsum(np.exp(logs[n] - logs - logs[::-1] + k * math.log(q) + (n - k) * math.log1p(-q)))
