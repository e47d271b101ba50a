"""Interval and p-value of the paired difference of two bootstrapped values, such as average precision, F1 or Brier's.

A share in (0, 1): `logit_profile` with the covariance of the two models' replicates, which the factor of `bootstrap`'s
expanded tails makes unbiased. On few patients it keeps its level where the BCa interval of the difference does not. The
BCa interval remains for errors, and where a model stands at 0 or 1 or is undefined in many resamples. Neither is ever
shorter than `score_interval`, since a bootstrap draws only from patients who are there.
"""

from __future__ import annotations

import numpy as np

from medfm_compress.bench.stats import bootstrap
from medfm_compress.bench.stats.bootstrap import Resampled
from medfm_compress.bench.stats.logit_profile import Pair, p_profile_below, profile_interval
from medfm_compress.bench.stats.score_interval import Effects, no_shorter, p_score_below, weaker
from medfm_compress.bench.types.interval import Interval

METHOD = "bootstrap over patients, logit profile"


def resampled_difference(
    resampled: Resampled, effects: Effects | None, level: float, *, errors: bool = False
) -> Interval | None:
    """Two-sided interval of second − first, of values ``[2]``; None where the bootstrap has none.

    Args:
        resampled: of both models.
        effects: of the patients, None where there is no bound to them.
        level: in (0, 1).
        errors: whether the values are errors, not shares.
    """
    pair = None if errors else _pair(resampled)
    interval = profile_interval(pair, level, METHOD) if pair else bootstrap.interval(change(resampled), level)
    return interval if interval is None or effects is None else no_shorter(interval, effects)


def p_resampled_below(resampled: Resampled, effects: Effects | None, bound: float, *, errors: bool = False) -> float:
    """One-sided p-value of "the true difference is at least ``bound``"; it inverts `resampled_difference`.

    The difference of errors is taken as first − second, so that a loss is negative as it is elsewhere.
    """
    if errors:
        p = bootstrap.p_below(change(resampled).of(np.negative), bound)
        return p if effects is None else weaker(p, p_score_below(effects.mirrored(), bound))
    if not bootstrap.is_defined(change(resampled)):
        return 1.0
    pair = _pair(resampled)
    p = bootstrap.p_below(change(resampled), bound) if pair is None else p_profile_below(pair, bound)
    return p if effects is None else weaker(p, p_score_below(effects, bound))


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
