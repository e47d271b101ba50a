"""Area under the ROC curve, its variance, and the paired difference of two, with several images a patient.

With positives i = 1…m, negatives j = 1…n, score x, and ψ(a, b) = 1 where a > b, ½ where a = b, else 0::

    A      = ΣΣ ψ(x_i, x_j) / (m n)                                    (Mann–Whitney)
    V10_i  = Σ_j ψ(x_i, x_j) / n ,   V01_j = Σ_i ψ(x_i, x_j) / m       (structural components)

V10 and V01 follow from mid-ranks in O(N log N). With clusters (patients) k, let d10_k = Σ_{i in k} (V10_i − A) and
d01_k = Σ_{j in k} (V01_j − A); I10, I01 and I are the numbers of clusters that hold a positive, a negative, any case::

    cov(A, B) = I10/(I10−1) Σ d10(A) d10(B) / m²  +  I01/(I01−1) Σ d01(A) d01(B) / n²
              + I/(I−1) Σ [d10(A) d01(B) + d01(A) d10(B)] / (m n)

Where each cluster is a single case the last line vanishes and the rest is DeLong's covariance, exactly. The interval of
one area is taken on the logit scale, which keeps it inside (0, 1); `difference` compares two.

Sources: DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988) 837–845; mid-ranks: Sun, Xu, IEEE Signal Processing
Letters 21 (2014) 1389–1393; clusters: Obuchowski, Biometrics 53 (1997) 567–578; logit: Pepe (2003), section 5.2; t
quantile with Satterthwaite's degrees over the two classes: Brunner, Munzel, Biometrical Journal 42 (2000) 17–25.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.score_interval import floor_without_variation
from medfm_compress.bench.stats.t_distribution import satterthwaite, t_quantile
from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

METHOD_AREA = "Obuchowski/DeLong, logit, t"


class Areas(NamedTuple):
    """Areas of several models on the same cases.

    Attributes:
        values: [models].
        covariance: [models, models].
        by_class: [2, models, models], what the positives and the negatives add to the covariance.
        patients: with a positive, with a negative, and in all.
    """

    values: Floats
    covariance: Floats
    by_class: Floats
    patients: tuple[int, int, int]

    def degrees(self, contrast: Floats) -> float:
        """Degrees of freedom of the variance of Σ ``contrast`` · area, Satterthwaite's over the two classes.

        Patients with cases of both classes count once, so that there are never more than patients − 1.
        """
        parts = [max(float(contrast @ part @ contrast), 0.0) for part in self.by_class]
        return min(satterthwaite(parts, [count - 1 for count in self.patients[:2]]), self.patients[2] - 1)


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
        InputError: one class is absent, the lengths differ, or a score is not finite.
    """
    _check(scores, truth)
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
        InputError: the lengths differ, a score is not finite, a class is absent, or it stands in one cluster only, from
            which no variance can be learnt.
    """
    _check(scores, truth)
    if clusters.shape != truth.shape:
        raise InputError(f"{len(clusters)} patient numbers and {len(truth)} cases; they must be as many")
    positive = _split(truth)
    m, n = int(positive.sum()), int((~positive).sum())
    size = int(clusters.max()) + 1
    values, d10, d01 = [], [], []
    for row in scores:
        v10, v01 = auroc_components(row, positive)
        area = float(v10.mean())
        values.append(area)
        d10.append(np.bincount(clusters[positive], v10 - area, minlength=size))
        d01.append(np.bincount(clusters[~positive], v01 - area, minlength=size))
    x, y = np.array(d10), np.array(d01)
    patients = (_patients(clusters[positive]), _patients(clusters[~positive]), _patients(clusters))
    correct = [count / (count - 1) for count in patients]
    by_class = np.stack([correct[0] * (x @ x.T) / m**2, correct[1] * (y @ y.T) / n**2])
    cross = x @ y.T
    covariance = by_class.sum(axis=0) + correct[2] * (cross + cross.T) / (m * n)
    return Areas(np.array(values), covariance, by_class, patients)


def auroc_components(scores: Floats, positive: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """DeLong's V10 ``[m]`` of the positives and V01 ``[n]`` of the negatives, from mid-ranks."""
    ranks = midranks(scores)
    m, n = int(positive.sum()), int((~positive).sum())
    v10 = (ranks[positive] - midranks(scores[positive])) / n
    v01 = 1 - (ranks[~positive] - midranks(scores[~positive])) / m
    return v10, v01


def area_interval(areas: Areas, model: int, level: float) -> Interval:
    """Two-sided interval of the area of ``model``, on the logit scale with a t quantile.

    An area of 0 or 1 has no logit and no variance; it reaches as far as so many pairs without discordance allow as
    there are patients of the rarer class (see `score_interval`).
    """
    area, variance = float(areas.values[model]), float(areas.covariance[model, model])
    if not 0 < area < 1:
        reach = floor_without_variation(min(areas.patients[:2]), level)
        low, high = max(area - reach, 0.0), min(area + reach, 1.0)
        return Interval(estimate=area, low=low, high=high, level=level, method="no variation, Tango's width")
    degrees = areas.degrees(np.eye(len(areas.values))[model])
    t, error = t_quantile((1 + level) / 2, degrees), math.sqrt(max(variance, 0.0))
    logit, spread = math.log(area / (1 - area)), t * error / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-min(max(end, -500.0), 500.0))) for end in (logit - spread, logit + spread))
    method = f"{METHOD_AREA} with {degrees:.0f} degrees of freedom"
    return Interval(estimate=area, low=low, high=high, level=level, method=method, standard_error=error)


def _check(scores: Floats, truth: Integers) -> None:
    if scores.shape[-1:] != truth.shape:
        raise InputError(f"scores have shape {scores.shape} and truth {truth.shape}; they must be of the same cases")
    if not np.isfinite(scores).all():
        raise InputError(f"{int((~np.isfinite(scores)).sum())} scores are not finite; mend the model's output")


def _split(truth: Integers) -> NDArray[np.bool_]:
    if not np.isin(truth, (0, 1)).all():
        raise InputError(f"the truth of a finding must be 0 or 1, got {np.unique(truth)[:5].tolist()}")
    positive = truth == 1
    if positive.all() or not positive.any():
        raise InputError(f"AUROC needs both classes, got {int(positive.sum())} positives among {len(truth)} cases")
    return np.asarray(positive)


def _patients(clusters: Integers) -> int:
    count = len(np.unique(clusters))
    if count < 2:
        raise InputError("the variance of AUROC needs at least two patients with and two without the finding")
    return count
