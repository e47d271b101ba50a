"""Student's t distribution with any real degrees of freedom, and Satterthwaite's degrees for a sum of variances.

With ν degrees of freedom and x = ν / (ν + t²), I the regularised incomplete beta function::

    P(T <= t) = 1 − ½ I_x(ν/2, ½)  for t >= 0 ,      ν = (Σ v_i)² / Σ (v_i² / ν_i)

I is computed by the continued fraction DLMF 8.17.22 with Lentz's method. The distribution is written out here because
the bench runs on devices that have numpy and no SciPy.

Sources: NIST Digital Library of Mathematical Functions, section 8.17; Satterthwaite, Biometrics Bulletin 2 (1946)
110–114.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from medfm_compress.runtime.errors import InputError

NORMAL_FROM = 1e7
MAX_TERMS = 20_000
TINY = 1e-300
_NORMAL = NormalDist()


def t_cdf(t: float, degrees: float) -> float:
    """P(T <= t) with ``degrees`` > 0 of freedom, which may be infinite (the normal distribution).

    Raises:
        InputError: ``degrees`` is not positive.
    """
    _check(degrees)
    if degrees >= NORMAL_FROM:
        return _NORMAL.cdf(t)
    if math.isinf(t):
        return 1.0 if t > 0 else 0.0
    tail = _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2
    return 1 - tail if t > 0 else tail


def t_quantile(p: float, degrees: float) -> float:
    """The t below which a share ``p`` in (0, 1) lies.

    Raises:
        InputError: ``p`` is not inside (0, 1), or ``degrees`` is not positive.
    """
    _check(degrees)
    if not 0 < p < 1:
        raise InputError(f"a quantile at {p} does not exist; the share must be above 0 and below 1")
    if degrees >= NORMAL_FROM or p == 0.5:
        return _NORMAL.inv_cdf(p)
    tail = min(p, 1 - p)
    # Newton on the lower tail, where the distribution function is convex: from the right of the root it would
    # overshoot once and from the left never, so that the steps are taken in log P, which is nearly straight.
    t = _NORMAL.inv_cdf(tail)
    for _ in range(200):
        share = t_cdf(t, degrees)
        step = (math.log(share) - math.log(tail)) * share / _density(t, degrees)
        t -= step
        if abs(step) <= 1e-14 * abs(t):
            break
    return t if p < 0.5 else -t


def satterthwaite(variances: Sequence[float], degrees: Sequence[float]) -> float:
    """Degrees of freedom of Σ ``variances``, each estimated with its own ``degrees``; their sum where all are 0."""
    total = math.fsum(variances)
    if not total > 0:
        return float(sum(degrees))
    # Shares of the total, so that squares of tiny variances do not underflow.
    return 1 / math.fsum((v / total) ** 2 / d for v, d in zip(variances, degrees, strict=True) if v > 0)


def _check(degrees: float) -> None:
    if not degrees > 0:
        raise InputError(f"{degrees} degrees of freedom; a t distribution needs more than 0")


def _density(t: float, degrees: float) -> float:
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    return math.exp(scale - (degrees + 1) / 2 * math.log1p(t * t / degrees))


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b) for x in [0, 1]."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(front) / (a * _fraction(x, a, b))


def _fraction(x: float, a: float, b: float) -> float:
    """The continued fraction 1 + d1/(1 + d2/(1 + …)) of DLMF 8.17.22."""
    value = c = 1.0
    d = 0.0
    for term in range(1, MAX_TERMS):
        m, odd = divmod(term, 2)
        if odd:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / ((1 + step * d) or TINY)
        c = (1 + step / c) or TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value
