"""Interval and p-value of the paired difference of two AUROCs.

`logit_profile` with Obuchowski's covariance, degrees of freedom Satterthwaite's over the positive and the negative
patients, and no shorter than `score_interval`: a covariance is learnt from the patients who are there, and a sub-type
that is lost may not be among them. An area of 0 or 1 has no logit, so that the score's interval stands alone.

Sources: covariance and degrees of freedom: see `auroc`.
"""

from __future__ import annotations

from medfm_compress.bench.stats.auroc import Areas
from medfm_compress.bench.stats.logit_profile import CONTRAST, Pair, p_profile_below, profile_interval
from medfm_compress.bench.stats.score_interval import Effects, no_shorter, p_score_below, score_interval, weaker
from medfm_compress.bench.types.interval import Interval

METHOD = "Obuchowski/DeLong, paired, logit profile"


def area_difference(areas: Areas, effects: Effects, level: float) -> Interval:
    """Two-sided interval of ``areas.values[1] - areas.values[0]``, paired; needs two patients of each class."""
    pair = _pair(areas)
    if pair is None:
        return score_interval(effects, level)
    return no_shorter(profile_interval(pair, level, METHOD), effects)


def p_area_below(areas: Areas, effects: Effects, bound: float) -> float:
    """One-sided p-value of "the true difference is at least ``bound``", small where it is clearly below.

    It inverts `area_difference`.
    """
    pair = _pair(areas)
    score = p_score_below(effects, bound)
    return score if pair is None else weaker(p_profile_below(pair, bound), score)


def _pair(areas: Areas) -> Pair | None:
    if not ((areas.values > 0) & (areas.values < 1)).all():
        return None
    return Pair(areas.values, areas.covariance, areas.degrees(CONTRAST))
