"""Interval and p-value of the paired difference of two AUROCs: `logit_profile` with Obuchowski's covariance.

The degrees of freedom are Satterthwaite's over the positive and the negative patients. An area of 0 or 1 has no logit;
each area's own interval is then joined as if the two were independent, which is wide rather than short::

    low = Â₂ − Â₁ − sqrt( (Â₂ − l₂)² + (u₁ − Â₁)² )                                         (MOVER without correlation)

Sources: covariance and degrees of freedom: see `auroc`; MOVER: Zou, Donner, Statistics in Medicine 27 (2008) 1693–1702.
"""

from __future__ import annotations

import math

from medfm_compress.bench.stats.auroc import Areas, area_interval
from medfm_compress.bench.stats.logit_profile import CONTRAST, Pair, p_profile_below, profile, quantile_reaching
from medfm_compress.bench.stats.t_distribution import t_cdf
from medfm_compress.bench.types.interval import Interval

FARTHEST_NORMAL = 8.0


def area_difference(areas: Areas, level: float) -> Interval:
    """Two-sided interval of ``areas.values[1] - areas.values[0]``, paired; needs two patients of each class."""
    pair = Pair(areas.values, areas.covariance, areas.degrees(CONTRAST))
    if _is_perfect(areas):
        (low, high), method = _joined(areas, level), "a perfect area: Tango's width, joined as if independent"
    else:
        (low, high), method = profile(pair, level), f"Obuchowski/DeLong, paired, logit profile, t({pair.degrees:.0f})"
    return Interval(
        estimate=pair.estimate,
        low=min(low, pair.estimate),
        high=max(high, pair.estimate),
        level=level,
        method=method,
        standard_error=pair.standard_error,
    )


def p_area_below(areas: Areas, bound: float) -> float:
    """One-sided p-value of "the true difference is at least ``bound``", small where it is clearly below.

    It inverts `area_difference`.
    """
    pair = Pair(areas.values, areas.covariance, areas.degrees(CONTRAST))
    if not _is_perfect(areas):
        return p_profile_below(pair, bound)
    below = pair.estimate < bound
    z = quantile_reaching(lambda z: _joined(areas, math.erf(z / math.sqrt(2)))[below], bound, FARTHEST_NORMAL)
    return t_cdf(-z if below else z, math.inf)


def _is_perfect(areas: Areas) -> bool:
    return not ((areas.values > 0) & (areas.values < 1)).all()


def _joined(areas: Areas, level: float) -> tuple[float, float]:
    first, second = (area_interval(areas, model, level) for model in (0, 1))
    estimate = second.estimate - first.estimate
    low = estimate - math.hypot(second.estimate - second.low, first.high - first.estimate)
    high = estimate + math.hypot(second.high - second.estimate, first.estimate - first.low)
    return max(low, -1.0), min(high, 1.0)
