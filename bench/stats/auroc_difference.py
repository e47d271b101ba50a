"""Interval and p-value of the paired difference of two AUROCs that stay calibrated near 1 and on few patients.

The plain (Wald) interval Â₂ − Â₁ ± z · SE, which is what pROC gives, is too lenient to a model that lost: areas near 1
are skewed, and the study in which the bundle looks best is also the one whose SE is smallest. Here both areas are taken
on the logit scale, where they are nearly normal, and the difference is profiled over their joint region. With
η = (logit A₁, logit A₂), Σ its covariance by the delta method and t the quantile of Student's distribution::

    {A₂ − A₁ :  (η − η̂)ᵀ Σ⁻¹ (η − η̂) <= t²}            Σ_kl = cov(Â_k, Â_l) / [A_k(1−A_k) A_l(1−A_l)]

The lower and upper ends are the smallest and largest difference on that ellipse. Far from 1 and with many patients it
is Wald's interval; two models whose ranks agree keep an interval of no width. The p-value inverts the interval. An area
of 0 or 1 has no logit; each area's own interval is then joined as if the two were independent (MOVER), which is wide
rather than short.

Sources: covariance, degrees of freedom and the logit in `auroc`; profiling a function over a normal region: Venzon,
Moolgavkar, Applied Statistics 37 (1988) 87–94; MOVER: Zou, Donner, Statistics in Medicine 27 (2008) 1693–1702.
`docs/results/statistics.md` has the simulated error rates of both intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from medfm_compress.bench.stats.auroc import Areas, Floats, area_interval
from medfm_compress.bench.stats.student import t_cdf, t_quantile
from medfm_compress.bench.types import Interval

CONTRAST = np.array([-1.0, 1.0])
ANGLES, ZOOMS = 64, 6
TIE = 1e-12


def area_difference(areas: Areas, level: float) -> Interval:
    """Two-sided interval of ``areas.values[1] - areas.values[0]``, paired; needs two patients of each class."""
    estimate = float(CONTRAST @ areas.values)
    error = _error(areas)
    if not ((areas.values > 0) & (areas.values < 1)).all():
        low, high = _joined(areas, level)
        method = "a perfect area: Tango's width, joined as if independent"
        return Interval(estimate=estimate, low=low, high=high, level=level, method=method, standard_error=error)
    degrees = areas.degrees(CONTRAST)
    t = t_quantile((1 + level) / 2, degrees)
    low, high = (_end(areas, t, upper) for upper in (False, True))
    return Interval(
        estimate=estimate,
        low=min(low, estimate),
        high=max(high, estimate),
        level=level,
        method=f"Obuchowski/DeLong, paired, profiled on the logit scale, t with {degrees:.0f} degrees of freedom",
        standard_error=error,
    )


def p_area_below(areas: Areas, bound: float) -> float:
    """One-sided p-value of "the true difference is at least ``bound``", small where it is clearly below.

    It inverts `area_difference`: at the two-sided level 1 − 2p an end of the interval is ``bound``.
    """
    below = float(CONTRAST @ areas.values) < bound
    if not ((areas.values > 0) & (areas.values < 1)).all():
        reach = _reach(lambda z: _joined(areas, math.erf(z / math.sqrt(2)))[below], bound, farthest=8.0)
        return t_cdf(-reach if below else reach, math.inf)
    if _error(areas) <= TIE:
        return 0.0 if below else 1.0
    reach = _reach(lambda t: _end(areas, t, below), bound, farthest=1e3)
    return t_cdf(-reach if below else reach, areas.degrees(CONTRAST))


def _error(areas: Areas) -> float:
    return math.sqrt(max(float(CONTRAST @ areas.covariance @ CONTRAST), 0.0))


def _end(areas: Areas, t: float, upper: bool) -> float:
    """Largest (else smallest) A₂ − A₁ on the ellipse of radius ``t``."""
    slopes = areas.values * (1 - areas.values)
    spread = np.sqrt(np.maximum(np.diag(areas.covariance), 0.0)) / slopes
    product = float(spread.prod() * slopes.prod())
    r = min(max(float(areas.covariance[0, 1]) / product, -1.0), 1.0) if product > 0 else 0.0
    root = np.array([[spread[0], 0.0], [r * spread[1], math.sqrt(1 - r * r) * spread[1]]])
    centre = np.log(areas.values / (1 - areas.values))[:, None]

    sign = CONTRAST if upper else -CONTRAST

    def difference(angles: Floats) -> Floats:
        logits = np.clip(centre + t * root @ np.stack([np.cos(angles), np.sin(angles)]), -500, 500)
        found: Floats = sign @ (1 / (1 + np.exp(-logits)))
        return found

    return _largest(difference) if upper else -_largest(difference)


def _largest(curve: Callable[[Floats], Floats]) -> float:
    """Largest value of a smooth periodic ``curve`` of an angle; each zoom narrows the angle to a tenth."""
    angles = np.linspace(-math.pi, math.pi, ANGLES, endpoint=False)
    for zoom in range(ZOOMS):
        values = curve(angles)
        best, width = float(angles[values.argmax()]), 2 * math.pi / ANGLES / 10**zoom
        angles = np.linspace(best - width, best + width, 21)
    return float(values.max())


def _joined(areas: Areas, level: float) -> tuple[float, float]:
    """MOVER's ends of A₂ − A₁ from each area's own interval, without a correlation."""
    first, second = (area_interval(areas, model, level) for model in (0, 1))
    estimate = second.estimate - first.estimate
    low = estimate - math.hypot(second.estimate - second.low, first.high - first.estimate)
    high = estimate + math.hypot(second.high - second.estimate, first.estimate - first.low)
    return max(low, -1.0), min(high, 1.0)


def _reach(end: Callable[[float], float], bound: float, farthest: float) -> float:
    """The quantile in (0, ``farthest``] at which ``end`` meets ``bound``, by bisection; ``end`` leaves the estimate."""
    low, high, above = 0.0, farthest, end(0.0) > bound
    for _ in range(60):
        middle = (low + high) / 2
        if (end(middle) > bound) == above:
            low = middle
        else:
            high = middle
    return (low + high) / 2
