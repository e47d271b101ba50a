"""Interval of a proportion where a patient may have several cases, which then count for less than as many patients.

With x_c successes among the m_c cases of patient c, n = Σ m_c, p = Σ x_c / n and C patients::

    v = C / (C − 1) · Σ (x_c − p m_c)² / n²        variance of p as a ratio of sums over patients
    d = v / (p (1 − p) / n), at least 1            design effect
    d = Σ m_c² / n                                 where p is 0 or 1, or C is 1, and v says nothing: a patient's cases
                                                   are then taken to be alike

and the interval is Wilson's for n p / d successes of n / d. With one case a patient it is Wilson's own.

Sources: Rao, Scott, A simple method for the analysis of clustered binary data, Biometrics 48 (1992) 577–585; Kish,
Survey Sampling, 1965, for the design effect.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.wilson import wilson
from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.errors import InputError


def clustered_wilson(successes: NDArray[np.int64], clusters: NDArray[np.int64], level: float = 0.95) -> Interval:
    """Interval of the share of ones in ``successes``.

    Args:
        successes: ``[n]``, 0 or 1.
        clusters: ``[n]``, equal numbers are one patient.
        level: of the interval, in (0, 1).

    Raises:
        InputError: no case, or lengths that differ.
    """
    if not len(successes) or len(successes) != len(clusters):
        raise InputError(f"{len(successes)} cases of {len(clusters)} patients are no proportion")
    numbers = np.unique(clusters, return_inverse=True)[1]
    sizes = np.bincount(numbers).astype(np.float64)
    hits = np.bincount(numbers, weights=successes).astype(np.float64)
    total, share = len(successes), float(hits.sum() / len(successes))
    effect = max(_design_effect(sizes, hits, share), 1.0)
    interval = wilson(share * total / effect, total / effect, level)
    if len(sizes) == total:
        return interval
    return msgspec.structs.replace(interval, estimate=share, method="Wilson, clustered by patient")


def _design_effect(sizes: NDArray[np.float64], hits: NDArray[np.float64], share: float) -> float:
    total, patients = float(sizes.sum()), len(sizes)
    if patients == 1 or not 0 < share < 1:
        return float((sizes**2).sum() / total)
    variance = patients / (patients - 1) * float(((hits - share * sizes) ** 2).sum()) / total**2
    return variance / (share * (1 - share) / total) if patients < total else 1.0
