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

from medfm_compress.bench.types.metric import METRICS, Metric
from medfm_compress.runtime.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Weights = NDArray[np.int32] | Floats
RANKED: tuple[Metric, ...] = ("auroc", "auprc")
SCORED: tuple[Metric, ...] = ("brier", "log_loss", "ece")
ECE_BINS = 15
LOG_CLIP = 1e-7
RATIOS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "accuracy": ((1, 0, 0, 1), (1, 1, 1, 1)),
    "sensitivity": ((1, 0, 0, 0), (1, 0, 1, 0)),
    "specificity": ((0, 0, 0, 1), (0, 1, 0, 1)),
    "ppv": ((1, 0, 0, 0), (1, 1, 0, 0)),
    "npv": ((0, 0, 0, 1), (0, 0, 1, 1)),
    "f1": ((2, 0, 0, 0), (2, 1, 1, 0)),
}
"""Factors of TP, FP, FN and TN above and below the line."""


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
    """One model's cases from the highest score down; a group is the cases that share a score, with a positive in it.

    Attributes:
        clusters: [n], cluster of each case in that order.
        positives: [positive cases], likewise of the positive cases only.
        starts: [groups], cases before the group.
        ends: [groups], position of the group's last case.
        hits: [groups], position of the group's last positive case among the positive ones.
    """

    clusters: Integers
    positives: Integers
    starts: Integers
    ends: Integers
    hits: Integers


class WeightedMetrics:
    """Metrics of a `Sample`, prepared once and computed for any weights of its clusters.

    Raises:
        InputError: on creation; the parts of the sample have unlike lengths, a score is not finite (for brier, log_loss
            and ece: no probability), a truth or decision is not 0 or 1, or there is no case.
    """

    def __init__(self, sample: Sample, metrics: tuple[Metric, ...] = METRICS) -> None:
        _check(sample, metrics)
        self.metrics = metrics
        self.models, self.cases = sample.scores.shape
        self.clusters = int(sample.clusters.max()) + 1
        self._counts = _cluster_counts(sample, self.clusters)
        self._errors = _cluster_errors(sample, self.clusters) if set(metrics) & set(SCORED) else None
        self._rankings = [_rank(row, sample) for row in sample.scores] if set(metrics) & set(RANKED) else []

    def __call__(self, weights: Weights) -> Floats:
        """Values ``[weightings, models, metrics]`` for cluster weights ``[weightings, clusters]``; NaN if undefined.

        Integers of 32 bits are summed as they are, which is exact and several times faster than as floats.
        """
        floats = weights.astype(np.float64, copy=False)
        counts = (floats @ self._counts).reshape(len(weights), self.models, 4)
        counted = [metric for metric in self.metrics if metric not in (*RANKED, *SCORED)]
        values = {metric: count_metric(metric, counts) for metric in counted}
        if self._errors is not None:
            values |= _scored((floats @ self._errors).reshape(len(weights), self.models, -1), counts.sum(axis=-1))
        if self._rankings:
            ranked_metrics = tuple(metric for metric in RANKED if metric in self.metrics)
            ranked = np.stack([_ranked(ranking, weights, ranked_metrics) for ranking in self._rankings], axis=1)
            values |= {metric: ranked[:, :, column] for column, metric in enumerate(ranked_metrics)}
        stacked: Floats = np.stack([values[metric] for metric in self.metrics], axis=-1)
        return stacked

    def unweighted(self) -> Floats:
        """Values ``[models, metrics]`` of the sample itself."""
        values: Floats = self(np.ones((1, self.clusters)))[0]
        return values


def count_metric(metric: Metric, counts: Floats) -> Floats:
    """A metric of decisions from ``counts`` ``[..., 4]``: TP, FP, FN, TN; NaN where its denominator is 0."""
    parts = [_ratio(counts @ above, counts @ below) for above, below in _ratios(metric)]
    return np.asarray(np.mean(parts, axis=0))


def count_gradient(metric: Metric, counts: Floats) -> Floats:
    """Its derivatives ``[4]`` by the ``counts`` ``[4]``."""
    parts = [
        (above - below * (counts @ above) / (counts @ below)) / (counts @ below) for above, below in _ratios(metric)
    ]
    return np.asarray(np.mean(parts, axis=0))


def _ratios(metric: Metric) -> list[tuple[Floats, Floats]]:
    """The ratios whose mean ``metric`` is, as factors of TP, FP, FN and TN above and below the line."""
    names = ("sensitivity", "specificity") if metric == "balanced_accuracy" else (metric,)
    return [
        (np.array(above, np.float64), np.array(below, np.float64)) for above, below in map(RATIOS.__getitem__, names)
    ]


def _check(sample: Sample, metrics: tuple[Metric, ...]) -> None:
    cases = len(sample.truth)
    shapes = {"scores": sample.scores.shape[1:], "decisions": sample.decisions.shape[1:]}
    shapes["clusters"] = sample.clusters.shape
    unlike = [f"{len_of} {shape}" for len_of, shape in shapes.items() if shape != (cases,)]
    if unlike or not cases:
        raise InputError(
            f"a sample of {cases} cases has {', '.join(unlike) or 'nothing to measure'}; lengths must agree"
        )
    if not np.isfinite(sample.scores).all():
        raise InputError(f"{int((~np.isfinite(sample.scores)).sum())} scores are not finite; mend the model's output")
    if set(metrics) & set(SCORED) and not (sample.scores.min() >= 0 and sample.scores.max() <= 1):
        raise InputError(
            f"{', '.join(SCORED)} need probabilities in [0, 1], got {sample.scores.min():g} to {sample.scores.max():g}"
        )
    for name, values in (("truth", sample.truth), ("decisions", sample.decisions)):
        if not np.isin(values, (0, 1)).all():
            raise InputError(f"{name} must be 0 or 1, got {np.unique(values)[:5].tolist()}")


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
    truth = sample.truth[order]
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(truth)[ends]
    holds = np.diff(hits, prepend=0) > 0
    starts = np.append(0, ends[:-1] + 1)[holds]
    return Ranking(sample.clusters[order], sample.clusters[order][truth == 1], starts, ends[holds], hits[holds] - 1)


def _ranked(ranking: Ranking, weights: Weights, metrics: tuple[Metric, ...]) -> Floats:
    """AUROC and average precision, as wanted: ``[weightings, metrics]``; only groups with a positive add to either."""
    called = _running(weights, ranking.clusters)
    hits = _running(weights, ranking.positives).take(ranking.hits, axis=1).astype(np.float64)
    gained = np.diff(hits, axis=1, prepend=0.0)
    positives, total = gained.sum(axis=1, keepdims=True), called[:, -1:].astype(np.float64)
    at_end = called.take(ranking.ends, axis=1)
    columns = []
    if "auroc" in metrics:
        # Negatives above the group and down to its end; those tied with it count half.
        before = np.where(ranking.starts > 0, called.take(ranking.starts - 1, axis=1), 0) - (hits - gained)
        beaten = total - positives - (before + at_end - hits) / 2
        columns.append(_ratio(np.einsum("wg,wg->w", gained, beaten), (positives * (total - positives))[:, 0]))
    if "auprc" in metrics:
        np.divide(hits, at_end, out=hits, where=at_end > 0)
        columns.append(_ratio(np.einsum("wg,wg->w", gained, hits), positives[:, 0]))
    return np.stack(columns, axis=1)


def _running(weights: Weights, clusters: Integers) -> Weights:
    """Running sums ``[weightings, cases]`` of the weights of cases in the order of ``clusters``."""
    cases = weights.take(clusters, axis=1)
    sums: Weights = np.cumsum(cases, axis=1, dtype=cases.dtype, out=cases)
    return sums


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    out = np.full(np.shape(denominator), np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out
