"""Interval and p-value of a paired difference of two shares in (0, 1), profiled over their joint region of logits.

Wald's interval, estimate ± z · SE, is too lenient to a model that lost: values near 1 are skewed, and the study in
which the bundle looks best is also the one whose SE is smallest. On the logit scale both values are nearly normal. With
η = (logit A₁, logit A₂), Σ its covariance by the delta method and t a quantile of Student's distribution the interval
is the range of the difference over an ellipse::

    {A₂ − A₁ :  (η − η̂)ᵀ Σ⁻¹ (η − η̂) <= t²}            Σ_kl = cov(Â_k, Â_l) / [A_k(1−A_k) A_l(1−A_l)]

Far from 0 and 1 and with many patients it is Wald's interval, and two models that vary as one keep an interval of no
width. The p-value inverts the interval.

Sources: the logit of an area: Pepe (2003), section 5.2; of average precision: Boyd, Eng, Page, ECML PKDD (2013)
451–466; profiling a function over a normal region: Venzon, Moolgavkar, Applied Statistics 37 (1988) 87–94.
`docs/results/statistics.md` has the simulated error rates beside those of Wald's interval and of the BCa bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.t_distribution import t_cdf, t_quantile
from medfm_compress.bench.types.interval import Interval

Floats = NDArray[np.float64]

CONTRAST = np.array([-1.0, 1.0])
ANGLES, ZOOMS = 64, 4
FARTHEST = 1e3
TIE = 1e-12


class Pair(NamedTuple):
    """Two estimates on the same cases.

    Attributes:
        values: [2], each inside (0, 1).
        covariance: [2, 2].
        degrees: of freedom of the difference's variance.
    """

    values: Floats
    covariance: Floats
    degrees: float

    @property
    def estimate(self) -> float:
        """Second − first."""
        return float(CONTRAST @ self.values)

    @property
    def standard_error(self) -> float:
        """Of the difference."""
        return math.sqrt(max(float(CONTRAST @ self.covariance @ CONTRAST), 0.0))


def profile(pair: Pair, level: float) -> tuple[float, float]:
    """Both ends of the difference."""
    if pair.standard_error <= TIE:
        return pair.estimate, pair.estimate
    t = t_quantile((1 + level) / 2, pair.degrees)
    return _end(pair, t, upper=False), _end(pair, t, upper=True)


def profile_interval(pair: Pair, level: float, method: str) -> Interval:
    """`profile` as an interval around the estimate, called ``method`` with its degrees of freedom."""
    low, high = profile(pair, level)
    return Interval(
        estimate=pair.estimate,
        low=min(low, pair.estimate),
        high=max(high, pair.estimate),
        level=level,
        method=f"{method}, t({pair.degrees:.0f})",
        standard_error=pair.standard_error,
    )


def p_profile_below(pair: Pair, bound: float) -> float:
    """One-sided p-value of "the true difference is at least ``bound``", small where it is clearly below.

    At the two-sided level 1 − 2p an end of `profile` is ``bound``.
    """
    below = pair.estimate < bound
    if pair.standard_error <= TIE:
        return 0.0 if pair.estimate < bound - TIE else 1.0
    t = quantile_reaching(lambda t: _end(pair, t, upper=below), bound, FARTHEST)
    return t_cdf(-t if below else t, pair.degrees)


def quantile_reaching(end: Callable[[float], float], bound: float, farthest: float) -> float:
    """The quantile in (0, ``farthest``] at which ``end``, an end of an interval, meets ``bound``; by bisection."""
    low, high, above = 0.0, farthest, end(0.0) > bound
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (end(middle) > bound) == above else (low, middle)
    return (low + high) / 2


def _end(pair: Pair, t: float, *, upper: bool) -> float:
    """Largest (else smallest) difference on the ellipse of radius ``t``."""
    slopes = pair.values * (1 - pair.values)
    deviations = np.sqrt(np.maximum(np.diag(pair.covariance), 0.0))
    product = float(deviations.prod())
    r = min(max(float(pair.covariance[0, 1]) / product, -1.0), 1.0) if product > 0 else 0.0
    spread = deviations / slopes
    root = np.array([[spread[0], 0.0], [r * spread[1], math.sqrt(1 - r * r) * spread[1]]])
    centre = np.log(pair.values / (1 - pair.values))[:, None]
    sign = CONTRAST if upper else -CONTRAST

    def difference(angles: Floats) -> Floats:
        logits = np.clip(centre + t * root @ np.stack([np.cos(angles), np.sin(angles)]), -500, 500)
        change: Floats = sign @ (1 / (1 + np.exp(-logits)))
        return change

    return _largest(difference) if upper else -_largest(difference)


def _largest(curve: Callable[[Floats], Floats]) -> float:
    """Largest value of a smooth periodic ``curve`` of an angle; each zoom narrows the angle to a tenth."""
    angles = np.linspace(-math.pi, math.pi, ANGLES, endpoint=False)
    for zoom in range(ZOOMS):
        values = curve(angles)
        best, width = float(angles[values.argmax()]), 2 * math.pi / ANGLES / 10**zoom
        angles = np.linspace(best - width, best + width, 21)
    return float(values.max())
