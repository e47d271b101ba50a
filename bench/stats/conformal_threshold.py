"""A threshold for normal cases at a false-alarm rate that so few of them can promise.

Of n scores s_(1) <= … <= s_(n) of normal cases, and one more drawn as they were,

    k = ⌈(n + 1) (1 − R)⌉          P(S > s_(k)) <= 1 − k / (n + 1) <= R

whatever the scores' distribution (Vovk, Gammerman & Shafer, Algorithmic Learning in a Random World, 2005; Lei et al.,
J. Am. Stat. Assoc. 113 (2018) 1094–1111). The rate is that over draws of the n cases as well: one draw's own rate lies
about it, the nearer the more cases there are. Below ⌈1 / R⌉ − 1 of them no rank k <= n keeps to R.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError

_ROUNDING = 1e-9


def least_cases(rate: float) -> int:
    """The fewest normal cases of which a threshold at ``rate``, in (0, 1), can be told."""
    return math.ceil(1 / rate - 1 - _ROUNDING)


def check_count(count: int, rate: float) -> None:
    """Whether ``count`` normal cases suffice for ``rate``, in (0, 1); raises InputError with how many are needed."""
    least = least_cases(rate)
    if count < least:
        raise InputError(
            f"{count} normal validation cases cannot promise a false-alarm rate of {rate:g}; {least} are needed: add "
            "normal cases to split 'val', or declare a higher rate"
        )


def conformal_score(scores: NDArray[np.float64], rate: float) -> float:
    """s_(k): scores above it are called.

    Args:
        scores: of normal cases, ``[n]``.
        rate: R, in (0, 1).

    Raises:
        InputError: there are too few; says how many are needed.
    """
    count = len(scores)
    check_count(count, rate)
    rank = math.ceil((count + 1) * (1 - rate) - _ROUNDING)
    return float(np.sort(scores)[rank - 1])
