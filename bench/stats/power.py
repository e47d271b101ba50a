"""What a study of this size could have shown, and how many more patients a given margin takes.

With SE the standard error of bundle − teacher, and the two models in truth alike, a margin Δ is ruled out with
probability ``power`` where::

    Δ = (z_{1−α} + z_power) · SE                                       (normal)
    P( T_ν(Δ / SE) > t_ν(1 − α) ) = power                              (t with ν degrees of freedom, exact)

T_ν(λ) is Student's noncentral t: T > t exactly where a standard normal exceeds t·u − λ, u = sqrt(χ²_ν / ν), which is
integrated over the density of u. The SE falls with the square root of the number of patients, so (Δ/δ)² times as many
rule out a margin δ. However small the SE, so many patients exclude no loss below the floor of `score_interval`, which
falls with their number.

Sources: Julious, Statistics in Medicine 23 (2004) 1921–1986, section 5 (non-inferiority); noncentral t: Johnson, Kotz,
Balakrishnan, Continuous Univariate Distributions 2 (1995), chapter 31.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from medfm_compress.bench.stats.t_distribution import NORMAL_FROM, t_quantile
from medfm_compress.runtime.errors import InputError

NODES = 201
_NORMAL = NormalDist()


class Reach(NamedTuple):
    """How far a study reaches.

    Attributes:
        smallest_margin: that would probably be ruled out, were the models alike; None if not known.
        times_patients: how many times as many patients rule out the margin asked about (1 or less: these suffice); None
            if not known.
        reason: why it is not known; else empty.
    """

    smallest_margin: float | None
    times_patients: float | None
    reason: str = ""


def reach(
    standard_error: float | None,
    margin: float,
    *,
    alpha: float = 0.025,
    power: float = 0.8,
    degrees: float = math.inf,
    least_loss: float | None = None,
) -> Reach:
    """Smallest margin that a comparison with ``standard_error`` could rule out, and what ``margin`` would take.

    Args:
        standard_error: of the difference; None or 0 where there is none, which says nothing of the next patient.
        least_loss: that so many patients could exclude at best (see `score_interval`), None if not known.
        margin: asked about, > 0.
        alpha: one-sided, in (0, 0.5).
        power: in (0.5, 1).
        degrees: of freedom of the standard error.

    Raises:
        InputError: an argument outside its range.
    """
    _check(standard_error, margin, alpha, power)
    if not standard_error and not least_loss:
        return Reach(None, None, "the standard error is 0 or unknown, so nothing follows for more patients")
    error, floor = standard_error or 0.0, least_loss or 0.0
    smallest = error * _noncentrality(alpha, power, degrees) if error else 0.0
    times = _times(error / margin, alpha, power, degrees) if error else 0.0
    return Reach(smallest_margin=max(smallest, floor), times_patients=max(times, floor / margin))


def _check(standard_error: float | None, margin: float, alpha: float, power: float) -> None:
    if not margin > 0:
        raise InputError(f"margin is {margin}; it must be above 0")
    if not (0 < alpha < 0.5 < power < 1):
        raise InputError(f"alpha is {alpha} and power {power}; alpha must be in (0, 0.5) and power in (0.5, 1)")
    if standard_error is not None and not 0 <= standard_error < math.inf:
        raise InputError(f"the standard error is {standard_error}; it must be finite and at least 0")


def _noncentrality(alpha: float, power: float, degrees: float) -> float:
    """λ = Δ / SE at which the test has ``power``."""
    if degrees >= NORMAL_FROM:
        return _NORMAL.inv_cdf(1 - alpha) + _NORMAL.inv_cdf(power)
    critical = t_quantile(1 - alpha, degrees)
    low, high = 0.0, 2 * critical + 10
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if _power(middle, critical, degrees) < power else (low, middle)
    return (low + high) / 2


def _power(noncentrality: float, critical: float, degrees: float) -> float:
    """P(T > critical): the mean of Φ(λ − critical · u) over u = sqrt(χ²/ν), by Simpson's rule."""
    spread = 10 / math.sqrt(2 * degrees)
    u = np.linspace(max(1 - spread, 1e-9), 1 + spread, NODES)
    log_density = (degrees - 1) * np.log(u) - degrees * u**2 / 2
    weights = np.exp(log_density - log_density.max())
    weights[1:-1:2] *= 4
    weights[2:-1:2] *= 2
    normal = np.array([_NORMAL.cdf(noncentrality - critical * value) for value in u])
    return float(normal @ weights / weights.sum())


def _times(ratio: float, alpha: float, power: float, degrees: float) -> float:
    """The f with ratio / sqrt(f) · λ(f · degrees) = 1, where ``ratio`` is SE / margin."""
    times = (ratio * _noncentrality(alpha, power, math.inf)) ** 2
    if degrees >= NORMAL_FROM:
        return times
    for _ in range(8):
        # With fewer patients there are fewer degrees too; below one there is no test.
        times = (ratio * _noncentrality(alpha, power, max(times * degrees, 1.0))) ** 2
    return times
