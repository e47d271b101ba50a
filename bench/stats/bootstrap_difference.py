"""Interval and p-value of the paired difference of two bootstrapped shares, such as average precision or F1.

`logit_profile` with the covariance of the two models' replicates, which the factor of `bootstrap`'s expanded tails
makes unbiased. On few patients it keeps its level where the BCa interval of the difference does not. The BCa interval
remains where a model stands at 0 or 1, or is undefined in many resamples.
"""

from __future__ import annotations

import numpy as np

from medfm_compress.bench.stats import bootstrap
from medfm_compress.bench.stats.bootstrap import Resampled
from medfm_compress.bench.stats.logit_profile import Pair, p_profile_below, profile
from medfm_compress.bench.types.interval import Interval

METHOD = "bootstrap over patients, logit profile"


def share_difference(resampled: Resampled, level: float) -> Interval | None:
    """Two-sided interval of second − first, of shares ``[2]``; None where the bootstrap has none."""
    pair = _pair(resampled)
    if pair is None:
        return bootstrap.interval(change(resampled), level)
    low, high = profile(pair, level)
    return Interval(
        estimate=pair.estimate,
        low=min(low, pair.estimate),
        high=max(high, pair.estimate),
        level=level,
        method=f"{METHOD}, t({pair.degrees:.0f})",
        standard_error=pair.standard_error,
    )


def p_share_below(resampled: Resampled, bound: float) -> float:
    """One-sided p-value of "the true difference is at least ``bound``"; it inverts `share_difference`."""
    pair = _pair(resampled)
    return bootstrap.p_below(change(resampled), bound) if pair is None else p_profile_below(pair, bound)


def change(resampled: Resampled) -> Resampled:
    """Second − first of ``[2]`` values."""
    return resampled.of(lambda values: values[..., 1] - values[..., 0])


def _pair(resampled: Resampled) -> Pair | None:
    finite = np.isfinite(resampled.replicates).all(axis=1)
    inside = ((resampled.estimate > 0) & (resampled.estimate < 1)).all()
    if not inside or 1 - finite.mean() > bootstrap.MAX_UNDEFINED:
        return None
    expansion, degrees = bootstrap.expansion(change(resampled))
    return Pair(resampled.estimate, np.cov(resampled.replicates[finite].T) * expansion**2, degrees)
