"""Area under the ROC curve, its variance, and the paired difference of two, with several images a patient.

With positives i = 1…m, negatives j = 1…n, score x, and ψ(a, b) = 1 where a > b, ½ where a = b, else 0::

    A      = ΣΣ ψ(x_i, x_j) / (m n)                                    (Mann–Whitney)
    V10_i  = Σ_j ψ(x_i, x_j) / n ,   V01_j = Σ_i ψ(x_i, x_j) / m       (structural components)

V10 and V01 follow from mid-ranks in O(N log N). With clusters (patients) k, let d10_k = Σ_{i in k} (V10_i − A) and
d01_k = Σ_{j in k} (V01_j − A); I10, I01 and I are the numbers of clusters that hold a positive, a negative, any case::

    cov(A, B) = I10/(I10−1) Σ d10(A) d10(B) / m²  +  I01/(I01−1) Σ d01(A) d01(B) / n²
              + I/(I−1) Σ [d10(A) d01(B) + d01(A) d10(B)] / (m n)

Where each cluster is a single case the last line vanishes and the rest is DeLong's covariance, exactly.

Sources: DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988) 837–845; mid-ranks: Sun, Xu, IEEE Signal Processing
Letters 21 (2014) 1389–1393; clusters: Obuchowski, Biometrics 53 (1997) 567–578. The interval of one area is taken on
the logit scale, which keeps it inside (0, 1) (Pepe 2003, section 5.2); that of a difference is plain Wald, because a
difference has no bound near by and the margin is stated on the plain scale.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.proportions import undiscordant_reach
from medfm_compress.bench.types import Interval
from medfm_compress.runtime.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

METHOD_AREA = "Obuchowski/DeLong, logit"
METHOD_DIFFERENCE = "Obuchowski/DeLong, paired"


class Areas(NamedTuple):
    """Areas ``[models]`` and their covariance ``[models, models]``."""

    values: Floats
    covariance: Floats


def midranks(values: Floats) -> Floats:
    """Ranks 1…n of ``values`` (shape [n]); ties share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def auroc(scores: Floats, truth: Integers) -> float:
    """Area under the ROC curve.

    Args:
        scores: [n], larger means more likely positive.
        truth: [n], 0 or 1.

    Raises:
        InputError: one class is absent.
    """
    positive = _split(truth)
    positives = int(positive.sum())
    ranks = midranks(scores)[positive].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def clustered_areas(scores: Floats, truth: Integers, clusters: Integers) -> Areas:
    """Areas of several models on the same cases and their covariance.

    Args:
        scores: [models, n], larger means more likely positive.
        truth: [n], 0 or 1.
        clusters: [n], non-negative integers; equal numbers are one patient.

    Raises:
        InputError: a class is absent, or stands in one cluster only, from which no variance can be learnt.
    """
    positive = _split(truth)
    m, n = int(positive.sum()), int((~positive).sum())
    size = int(clusters.max()) + 1
    values, d10, d01 = [], [], []
    for row in scores:
        v10, v01 = _components(row, positive)
        area = float(v10.mean())
        values.append(area)
        d10.append(np.bincount(clusters[positive], v10 - area, minlength=size))
        d01.append(np.bincount(clusters[~positive], v01 - area, minlength=size))
    x, y = np.array(d10), np.array(d01)
    cross = x @ y.T
    covariance = (
        _small_sample(clusters[positive]) * (x @ x.T) / m**2
        + _small_sample(clusters[~positive]) * (y @ y.T) / n**2
        + _small_sample(clusters) * (cross + cross.T) / (m * n)
    )
    return Areas(np.array(values), covariance)


def area_interval(area: float, variance: float, level: float, rarer: int) -> Interval:
    """Two-sided interval of one area, on the logit scale.

    An area of 0 or 1 has no logit and no variance; it reaches as far as ``rarer`` pairs without discordance allow,
    the number of patients of the rarer class (see `proportions`).
    """
    if not 0 < area < 1:
        reach = undiscordant_reach(rarer, level)
        low, high = max(area - reach, 0.0), min(area + reach, 1.0)
        return Interval(estimate=area, low=low, high=high, level=level, method="no variation, Tango's width")
    z, error = NormalDist().inv_cdf((1 + level) / 2), math.sqrt(max(variance, 0.0))
    logit, spread = math.log(area / (1 - area)), z * error / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-min(max(end, -500.0), 500.0))) for end in (logit - spread, logit + spread))
    return Interval(estimate=area, low=low, high=high, level=level, method=METHOD_AREA, standard_error=error)


def difference_interval(areas: Areas, level: float) -> Interval:
    """Two-sided Wald interval of ``areas.values[1] - areas.values[0]``, paired; needs two patients of each class."""
    c = areas.covariance
    estimate = float(areas.values[1] - areas.values[0])
    error = math.sqrt(max(float(c[0, 0] + c[1, 1] - 2 * c[0, 1]), 0.0))
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    return Interval(
        estimate=estimate,
        low=max(estimate - reach, -1.0),
        high=min(estimate + reach, 1.0),
        level=level,
        method=METHOD_DIFFERENCE,
        standard_error=error,
    )


def _components(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """DeLong's V10 of the positives and V01 of the negatives, from mid-ranks."""
    ranks = midranks(scores)
    m, n = int(positive.sum()), int((~positive).sum())
    v10 = (ranks[positive] - midranks(scores[positive])) / n
    v01 = 1 - (ranks[~positive] - midranks(scores[~positive])) / m
    return v10, v01


def _split(truth: Integers) -> NDArray[np.bool_]:
    positive = truth == 1
    if positive.all() or not positive.any():
        raise InputError(f"AUROC needs both classes, got {int(positive.sum())} positives among {len(truth)} cases")
    return np.asarray(positive)


def _small_sample(clusters: Integers) -> float:
    """I / (I − 1) of the clusters."""
    count = len(np.unique(clusters))
    if count < 2:
        raise InputError("the variance of AUROC needs at least two patients with and two without the finding")
    return count / (count - 1)
