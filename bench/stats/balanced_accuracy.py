"""Paired difference of two balanced accuracies where every patient has one case.

Balanced accuracy is the mean of sensitivity and specificity, which come from different patients and are independent.
With their differences δ_k, k = 1, 2, and Tango's ends l_k and u_k the interval joins both (MOVER)::

    low  = (δ₁ + δ₂)/2 − ½ sqrt( (δ₁ − l₁)² + (δ₂ − l₂)² )        high = (δ₁ + δ₂)/2 + ½ sqrt( (u₁ − δ₁)² + (u₂ − δ₂)² )

and likewise one model's own, from Wilson's intervals. Where decisions hardly change, a bootstrap has little to draw
from and is too short; Tango's interval is not.

Sources: Zou, Donner, Statistics in Medicine 27 (2008) 1693–1702; Tango: see `tango`.
"""

from __future__ import annotations

import math

from medfm_compress.bench.stats.logit_profile import quantile_reaching
from medfm_compress.bench.stats.t_distribution import t_cdf
from medfm_compress.bench.stats.tango import tango
from medfm_compress.bench.types.interval import Interval

METHOD = "Tango's score, sensitivity and specificity joined"
FARTHEST = 8.0
Pairs = tuple[int, int, int]


def joined(sensitivity: Interval, specificity: Interval, method: str) -> Interval:
    """Interval of the mean of two independent estimates."""
    parts = (sensitivity, specificity)
    estimate = (sensitivity.estimate + specificity.estimate) / 2
    errors = [part.standard_error for part in parts]
    known = [error for error in errors if error is not None]
    return Interval(
        estimate=estimate,
        low=estimate - math.hypot(*(part.estimate - part.low for part in parts)) / 2,
        high=estimate + math.hypot(*(part.high - part.estimate for part in parts)) / 2,
        level=sensitivity.level,
        method=method,
        standard_error=math.hypot(*known) / 2 if known else None,
    )


def balanced_difference(positives: Pairs, negatives: Pairs, level: float) -> Interval:
    """Two-sided interval of second − first.

    Args:
        positives: patients with the finding: gained by the second model, lost, and all (see `tango`).
        negatives: likewise those without it.
        level: in (0, 1).

    Raises:
        InputError: impossible counts.
    """
    return joined(tango(*positives, level), tango(*negatives, level), METHOD)


def p_balanced_below(positives: Pairs, negatives: Pairs, bound: float) -> float:
    """One-sided p-value of "the true difference is at least ``bound``"; it inverts `balanced_difference`.

    Raises:
        InputError: impossible counts.
    """
    below = balanced_difference(positives, negatives, 0.5).estimate < bound

    def end(z: float) -> float:
        interval = balanced_difference(positives, negatives, math.erf(z / math.sqrt(2)))
        return interval.high if below else interval.low

    z = quantile_reaching(end, bound, FARTHEST)
    return t_cdf(-z if below else z, math.inf)
