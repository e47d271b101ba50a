"""Bounds of a latency percentile, open above where there are too few calls for an upper end.

Calls that were made in rounds are resampled by rounds, since calls of one round are not independent; others are taken
as independent (`stats.quantiles` has both). At 95% the 99th percentile needs 368 calls for an upper end. With fewer it
may still be known to lie above a limit: the lower end of the 99th percentile of x is minus the upper end of the first
percentile of −x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np

from medfm_compress.bench.stats.quantile_intervals import (
    METHOD,
    MIN_ROUNDS,
    quantile_interval,
    quantile_over_rounds,
    quantile_upper_bound,
    values_needed,
)
from medfm_compress.bench.types.interval import Interval

LEVEL = 0.95
_SHORT = f"{METHOD}, up to the largest value: too few for {LEVEL:.0%}"


def percentile_bounds(samples: Sequence[float], q: float, calls_per_round: int = 0) -> Interval:
    """Quantile ``q`` in (0, 1) of ``samples`` (ms) with its 95% interval; ``high`` may be infinite.

    Args:
        samples: at least one, finite and not negative.
        q: in (0, 1).
        calls_per_round: consecutive samples that belong to one round; 0 where there were no rounds.

    Raises:
        InputError: no sample, or one that is not finite.
    """
    in_rounds = calls_per_round > 0 and len(samples) % calls_per_round == 0
    if in_rounds and len(samples) >= MIN_ROUNDS * calls_per_round:
        interval = quantile_over_rounds(samples, calls_per_round, q, level=LEVEL)
    else:
        interval = quantile_interval(samples, q, LEVEL)
    return interval or _open_above(samples, q)


def finite(bounds: Interval, samples: Sequence[float], q: float) -> Interval:
    """``bounds`` for a report, which has no infinity: up to the largest sample, at the level that this really has."""
    if math.isfinite(bounds.high):
        return bounds
    level = max(0.0, (1 + LEVEL) / 2 - q ** len(samples))
    return msgspec.structs.replace(bounds, high=float(max(samples)), level=level, method=_SHORT)


def samples_for_upper_bound(q: float) -> int:
    """Samples from which on quantile ``q`` has an upper end."""
    return values_needed(q, LEVEL)


def _open_above(samples: Sequence[float], q: float) -> Interval:
    mirrored = quantile_upper_bound([-value for value in samples], 1 - q, (1 + LEVEL) / 2)
    low = 0.0 if mirrored is None else -mirrored
    return Interval(estimate=float(np.quantile(samples, q)), low=low, high=math.inf, level=LEVEL, method=METHOD)
