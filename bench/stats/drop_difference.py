"""How much more one model loses than another when the same cases change: a difference of two paired differences.

With θ the figure of merit of teacher t and bundle b on the clean (c) and the perturbed (p) cases,

    D = (θ_b,p − θ_b,c) − (θ_t,p − θ_t,c) = wᵀ θ ,   θ = (t_c, b_c, t_p, b_p),   w = (1, −1, −1, 1)

All four are of the same patients. For AUROC, Var(D) = wᵀ Σ w with Obuchowski's covariance of the four areas (`auroc`)
and a t quantile with Satterthwaite's degrees; what is not an area is bootstrapped over patients, with resamples that
all four share. Neither is shorter than `score_interval`, which allows for patients of whom the sample has none: those
whom the bundle alone loses when the cases change.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats import bootstrap
from medfm_compress.bench.stats.auroc import Areas
from medfm_compress.bench.stats.score_interval import (
    Effects,
    floor_without_variation,
    no_shorter,
    p_score_below,
    score_interval,
    weaker,
)
from medfm_compress.bench.stats.t_distribution import t_cdf, t_quantile
from medfm_compress.bench.types.interval import Interval

WEIGHTS: NDArray[np.float64] = np.array([1.0, -1.0, -1.0, 1.0])
METHOD = "Obuchowski/DeLong, difference of paired differences, t"
METHOD_FLOOR = "no discordance; floor over patients"
_NONE = 1e-12


def areas_drop_difference(areas: Areas, effects: Effects, level: float) -> Interval:
    """Interval of D for four areas in the order of `WEIGHTS`; ``effects`` of the patients on D."""
    estimate, error = float(WEIGHTS @ areas.values), _error(areas)
    if error <= _NONE:
        return score_interval(effects, level)
    half = t_quantile((1 + level) / 2, areas.degrees(WEIGHTS)) * error
    interval = Interval(
        estimate=estimate,
        low=estimate - half,
        high=estimate + half,
        level=level,
        method=METHOD,
        standard_error=error,
    )
    return no_shorter(interval, effects)


def p_areas_drop_below(areas: Areas, effects: Effects, bound: float) -> float:
    """One-sided p-value of "D is at least ``bound``", small where it is clearly below; it inverts the interval."""
    estimate, error = float(WEIGHTS @ areas.values), _error(areas)
    score = p_score_below(effects, bound)
    return score if error <= _NONE else weaker(t_cdf((estimate - bound) / error, areas.degrees(WEIGHTS)), score)


def resampled_drop_difference(
    values: bootstrap.Resampled, effects: Effects | None, patients: int, level: float
) -> Interval | None:
    """Interval of D for bootstrapped values ``[4]``; None where it is undefined in many resamples.

    Args:
        values: in the order of `WEIGHTS`.
        effects: of the patients on D; None where there is no bound to them.
        patients: of the rarer class, who reach as far as they allow where D has no variance and no effects.
        level: in (0, 1).
    """
    change = values.of(lambda v: v @ WEIGHTS)
    interval = bootstrap.interval(change, level)
    if interval is None:
        return None
    varies = interval.high - interval.low > _NONE
    if effects is None:
        return interval if varies else _floored(float(change.estimate), patients, level)
    return no_shorter(interval, effects) if varies else score_interval(effects, level)


def p_resampled_drop_below(
    values: bootstrap.Resampled, effects: Effects | None, bound: float, *, errors: bool
) -> float:
    """Likewise of bootstrapped values; D of errors is taken with its sign turned, so that a loss is negative."""
    signed = values.of(lambda v: v @ (-WEIGHTS if errors else WEIGHTS))
    p = bootstrap.p_below(signed, bound)
    if effects is None or not bootstrap.is_defined(signed):
        return p
    return weaker(p, p_score_below(effects.mirrored() if errors else effects, bound))


def _error(areas: Areas) -> float:
    return math.sqrt(max(float(WEIGHTS @ areas.covariance @ WEIGHTS), 0.0))


def _floored(estimate: float, patients: int, level: float) -> Interval:
    reach = floor_without_variation(patients, level)
    return Interval(estimate=estimate, low=estimate - reach, high=estimate + reach, level=level, method=METHOD_FLOOR)
