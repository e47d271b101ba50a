"""McNemar's test of whether two models err equally often on the same cases.

Of the pairs, b are right with the second model only and c with the first only. If both err equally often, b is binomial
with n = b + c and ½. With k = min(b, c)::

    exact       p = min(1, 2 P(X <= k))               mid-p       p = 2 P(X <= k) − P(X = k),  1 where b = c
    asymptotic  χ² = (b − c)² / (b + c), 1 degree of freedom; corrected: (|b − c| − 1)² / (b + c)

A small p says that the models differ, a large one does **not** say that they are alike: non-inferiority needs `tango`.

Sources: McNemar, Psychometrika 12 (1947) 153–157; mid-p, which is recommended: Fagerland, Lydersen, Laake, BMC Medical
Research Methodology 13 (2013) 91; correction: Edwards, Psychometrika 13 (1948) 185–187.
"""

from __future__ import annotations

import math
from typing import Literal

from medfm_compress.runtime.errors import InputError

McNemarMethod = Literal["exact", "mid-p", "asymptotic", "corrected"]


def mcnemar(gained: int, lost: int, method: McNemarMethod = "mid-p") -> float:
    """Two-sided p-value, in (0, 1]; 1 where no pair is discordant.

    Args:
        gained: pairs that only the second model has right.
        lost: pairs that only the first model has right.
        method: see above.

    Raises:
        InputError: a negative count.
    """
    if min(gained, lost) < 0:
        raise InputError(f"{gained} pairs gained and {lost} lost is impossible; counts are at least 0")
    total, fewer = gained + lost, min(gained, lost)
    if not total:
        return 1.0
    if method in ("asymptotic", "corrected"):
        distance = max(abs(gained - lost) - (method == "corrected"), 0)
        return math.erfc(distance / math.sqrt(2 * total))
    if gained == lost:
        return 1.0
    below = sum(_binomial(k, total) for k in range(fewer + 1))
    return min(1.0, 2 * below) if method == "exact" else 2 * below - _binomial(fewer, total)


def _binomial(k: int, n: int) -> float:
    """P(X = k) for X binomial with n and ½; logarithms, since 2ⁿ overflows."""
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
