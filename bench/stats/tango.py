"""Tango's score interval and test of a paired difference of two proportions.

Of n pairs, b were right with the second model only and c with the first only; the difference is δ = (p_b − p_c), its
estimate (b − c) / n. The score for a supposed δ, with q̂ the likelihood's best p_c under it::

    T(δ) = (b − c − nδ) / sqrt( n [2q̂ + δ(1 − δ)] ) ,    q̂ = [sqrt(B² − 4AC) − B] / 2A
    A = 2n ,  B = −b − c + (2n − b + c) δ ,  C = −c δ (1 − δ)

T falls as δ rises. The interval holds every δ with |T(δ)| <= z; its ends are found by bisection. Without a discordant
pair it is ± z² / (n + z²), where Wald's interval and a bootstrap claim that no pair could ever be discordant.

Source: Tango, Statistics in Medicine 17 (1998) 891–908. Each pair must be independent of the others: one a patient.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.errors import InputError

METHOD = "Tango's score"
_NORMAL = NormalDist()


def tango(gained: int, lost: int, pairs: int, level: float = 0.95) -> Interval:
    """Two-sided score interval of (``gained`` − ``lost``) / ``pairs``.

    Args:
        gained: pairs that only the second model has right.
        lost: pairs that only the first model has right.
        pairs: all of them.
        level: in (0, 1).

    Returns:
        The interval; its ``standard_error`` is the unrestricted one, None where no pair is discordant.

    Raises:
        InputError: negative counts, more discordant pairs than pairs, or no pair.
    """
    _check(gained, lost, pairs)
    z = _NORMAL.inv_cdf((1 + level) / 2)
    estimate = (gained - lost) / pairs
    variance = (gained + lost - (gained - lost) ** 2 / pairs) / pairs**2
    return Interval(
        estimate=estimate,
        low=_end(gained, lost, pairs, z),
        high=-_end(lost, gained, pairs, z),
        level=level,
        method=METHOD,
        standard_error=math.sqrt(variance) if variance > 0 else None,
    )


def p_tango_below(gained: int, lost: int, pairs: int, bound: float) -> float:
    """One-sided p-value of "the true difference is at least ``bound``", small where it is clearly below.

    Raises:
        InputError: as for `tango`, or ``bound`` is not inside (−1, 1).
    """
    _check(gained, lost, pairs)
    if not -1 < bound < 1:
        raise InputError(f"a difference of proportions of {bound} cannot be tested; it must be above -1 and below 1")
    return _NORMAL.cdf(_score(gained, lost, pairs, bound))


def undiscordant_reach(pairs: int, level: float = 0.95) -> float:
    """Half the width of the interval where none of ``pairs`` is discordant; 1 without any pair."""
    z = _NORMAL.inv_cdf((1 + level) / 2)
    return z**2 / (pairs + z**2)


def _check(gained: int, lost: int, pairs: int) -> None:
    if min(gained, lost) < 0 or gained + lost > pairs or pairs < 1:
        raise InputError(f"{gained} pairs gained and {lost} lost of {pairs} is impossible; counts are at least 0")


def _score(b: int, c: int, n: int, delta: float) -> float:
    """T(δ); infinite where the supposed δ leaves no variance."""
    quadratic, linear = 2 * n, -b - c + (2 * n - b + c) * delta
    root = math.sqrt(max(linear**2 + 4 * quadratic * c * delta * (1 - delta), 0.0))
    q = max((root - linear) / (2 * quadratic), 0.0, -delta)
    variance, excess = n * (2 * q + delta * (1 - delta)), b - c - n * delta
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def _end(b: int, c: int, n: int, z: float) -> float:
    """The lower end: the smallest δ with T(δ) <= z."""
    low, high = -1.0, (b - c) / n
    for _ in range(80):
        middle = (low + high) / 2
        if _score(b, c, n, middle) > z:
            low = middle
        else:
            high = middle
    return high
