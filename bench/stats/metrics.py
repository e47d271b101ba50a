"""Every metric of a binary finding under case weights, for many weightings at once.

With weight w_i, truth y_i, decision d_i and score x_i of case i, and TP = Σ w y d, FP = Σ w (1−y) d, and so on::

    accuracy    (TP + TN) / Σ w          sensitivity  TP / (TP + FN)       specificity  TN / (TN + FP)
    ppv         TP / (TP + FP)           npv          TN / (TN + FN)       f1  2 TP / (2 TP + FP + FN)
    balanced_accuracy                    (sensitivity + specificity) / 2
    brier       Σ w (x − y)² / Σ w       log_loss     −Σ w [y ln x + (1−y) ln(1−x)] / Σ w, x kept off 0 and 1 by 1e-7
    ece         Σ_b |Σ_{i in b} w (x − y)| / Σ w, b over 15 bins of equal width
    auroc       Σ_g [FP_g − FP_(g−1)] · [TP_g + TP_(g−1)] / 2  / (P N)
    auprc       Σ_g [TP_g − TP_(g−1)] / P · TP_g / (TP_g + FP_g)

where g runs over the distinct scores from the highest down, TP_g and FP_g count the cases at or above it, and P and N
are the weighted positives and negatives. ``auprc`` is average precision, which does not interpolate (Davis, Goadrich,
ICML 2006). What has a zero denominator is NaN, never 0. Weights are given per cluster; a bootstrap resample is one
weighting.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.types import METRICS, Metric

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
RANKED: tuple[Metric, ...] = ("auroc", "auprc")
SCORED: tuple[Metric, ...] = ("brier", "log_loss", "ece")
ECE_BINS = 15
LOG_CLIP = 1e-7


class Sample(NamedTuple):
    """One finding as several models saw it, on the same cases.

    Attributes:
        scores: [models, n], larger means more likely positive.
        decisions: [models, n], 0 or 1.
        truth: [n], 0 or 1.
        clusters: [n], numbered 0 … clusters − 1 without gaps.
    """

    scores: Floats
    decisions: Integers
    truth: Integers
    clusters: Integers


class Ranking(NamedTuple):
    """One model's cases from the highest score down.

    Attributes:
        clusters: [n], cluster of each case in that order.
        truth: [n], float, in that order.
        ends: [distinct scores], position of the last case of each distinct score.
    """

    clusters: Integers
    truth: Floats
    ends: Integers


class WeightedMetrics:
    """Metrics of a `Sample`, prepared once and computed for any weights of its clusters."""

    def __init__(self, sample: Sample, metrics: tuple[Metric, ...] = METRICS) -> None:
        self.metrics = metrics
        self.models, self.cases = sample.scores.shape
        self.clusters = int(sample.clusters.max()) + 1
        self._counts = _cluster_counts(sample, self.clusters)
        self._errors = _cluster_errors(sample, self.clusters) if set(metrics) & set(SCORED) else None
        self._rankings = [_rank(row, sample) for row in sample.scores] if set(metrics) & set(RANKED) else []

    def __call__(self, weights: Floats) -> Floats:
        """Values ``[weightings, models, metrics]`` for cluster weights ``[weightings, clusters]``; NaN if undefined."""
        counts = (weights @ self._counts).reshape(len(weights), self.models, 4)
        counted = [metric for metric in self.metrics if metric not in (*RANKED, *SCORED)]
        values = {metric: count_metric(metric, counts) for metric in counted}
        if self._errors is not None:
            values |= _scored((weights @ self._errors).reshape(len(weights), self.models, -1), counts.sum(axis=-1))
        if self._rankings:
            wanted = tuple(metric for metric in RANKED if metric in self.metrics)
            ranked = np.stack([_ranked(ranking, weights, wanted) for ranking in self._rankings], axis=1)
            values |= {metric: ranked[:, :, column] for column, metric in enumerate(wanted)}
        stacked: Floats = np.stack([values[metric] for metric in self.metrics], axis=-1)
        return stacked

    def unweighted(self) -> Floats:
        """Values ``[models, metrics]`` of the sample itself."""
        values: Floats = self(np.ones((1, self.clusters)))[0]
        return values


def count_metric(metric: Metric, counts: Floats) -> Floats:
    """A metric of decisions from ``counts`` ``[..., 4]``: TP, FP, FN, TN; NaN where its denominator is 0."""
    if metric == "balanced_accuracy":
        return (count_metric("sensitivity", counts) + count_metric("specificity", counts)) / 2
    tp, fp, fn, tn = np.moveaxis(counts, -1, 0)
    parts: dict[str, tuple[Floats, Floats]] = {
        "accuracy": (tp + tn, tp + fp + fn + tn),
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "ppv": (tp, tp + fp),
        "npv": (tn, tn + fn),
        "f1": (2 * tp, 2 * tp + fp + fn),
    }
    return _ratio(*parts[metric])


def _cluster_counts(sample: Sample, clusters: int) -> Floats:
    """TP, FP, FN, TN of each cluster and model: ``[clusters, models * 4]``."""
    y = sample.truth
    columns = [
        np.bincount(sample.clusters, weights=cell, minlength=clusters)
        for d in sample.decisions
        for cell in (y * d, (1 - y) * d, y * (1 - d), (1 - y) * (1 - d))
    ]
    return np.stack(columns, axis=1)


def _cluster_errors(sample: Sample, clusters: int) -> Floats:
    """Squared error, log loss and error by bin of each cluster and model: ``[clusters, models * (2 + ECE_BINS)]``."""
    columns = []
    for scores in sample.scores:
        error, kept = scores - sample.truth, np.clip(scores, LOG_CLIP, 1 - LOG_CLIP)
        loss = -np.where(sample.truth == 1, np.log(kept), np.log1p(-kept))
        bins = np.minimum((scores * ECE_BINS).astype(np.int64), ECE_BINS - 1)
        rows = [error**2, loss, *(np.where(bins == number, error, 0.0) for number in range(ECE_BINS))]
        columns += [np.bincount(sample.clusters, weights=row, minlength=clusters) for row in rows]
    return np.stack(columns, axis=1)


def _scored(sums: Floats, total: Floats) -> dict[Metric, Floats]:
    """Metrics of probabilities from ``sums`` ``[..., 2 + ECE_BINS]`` and the weight ``total`` ``[...]``."""
    return {
        "brier": _ratio(sums[..., 0], total),
        "log_loss": _ratio(sums[..., 1], total),
        "ece": _ratio(np.abs(sums[..., 2:]).sum(axis=-1), total),
    }


def _rank(scores: Floats, sample: Sample) -> Ranking:
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return Ranking(sample.clusters[order], sample.truth[order].astype(np.float64), ends)


def _ranked(ranking: Ranking, weights: Floats, wanted: tuple[Metric, ...]) -> Floats:
    """AUROC and average precision, as wanted: ``[weightings, metrics]``."""
    case_weights = weights[:, ranking.clusters]
    called = np.cumsum(case_weights, axis=1)[:, ranking.ends]
    case_weights *= ranking.truth
    hits = np.cumsum(case_weights, axis=1)[:, ranking.ends]
    gained = np.diff(hits, axis=1, prepend=0.0)
    positives, total = hits[:, -1].copy(), called[:, -1].copy()
    columns = []
    if "auroc" in wanted:
        # called - hits are the false positives; the mean of two neighbouring heights is hits - gained / 2.
        area = np.einsum("wg,wg->w", np.diff(called - hits, axis=1, prepend=0.0), hits - gained / 2)
        columns.append(_ratio(area, positives * (total - positives)))
    if "auprc" in wanted:
        np.divide(hits, called, out=hits, where=called > 0)
        columns.append(_ratio(np.einsum("wg,wg->w", gained, hits), positives))
    return np.stack(columns, axis=1)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    out = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out
