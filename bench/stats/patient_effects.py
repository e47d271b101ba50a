"""Each patient's effect on a metric or its paired difference, and a lost patient's, for `score_interval`.

With m positive and n negative cases, N = m + n, and the notation of `metrics` and `auroc`, the influence of case i on
one model's value is::

    counts     ∂f/∂c for the cell c of TP, FP, FN, TN in which it lies                      (f: sensitivity, F1, …)
    auroc      (V10_i − A) / m   of a positive,      (V01_i − A) / n   of a negative
    auprc      [P_i − AP + Σ_{j <= i} FP_j / r_j²] / m   of a positive,    −Σ_{j <= i} TP_j / r_j² / m   of a negative,
               where P = TP / r is the precision at a positive's score, r = TP + FP the cases called there, and j <= i
               runs over the positives that score no higher
    brier      [(x_i − y_i)² − B] / N

A patient's effect is the sum over the cases, of a difference second model − first; those of ranks are centred in either
class, whose sizes are fixed. Its sign is the metric's (a rise of Brier's is a loss). The patient who is lost has as
many cases as any patient of the class, each of which the first model has right and the second wrong: a positive that
turns negative or the reverse, the lowest or the highest rank, an error of 1. (A patient of average size would not do:
where 1% of the patients have twenty images each and all of the loss, most samples hold none of those who are lost.) One
negative above every positive costs average precision about ln(m) / m, which is why it takes so many positives to bound.

Sources: influence functions: Davison, Hinkley, Bootstrap Methods (1997), section 2.7; DeLong's components: see `auroc`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.auroc import auroc_components
from medfm_compress.bench.stats.metrics import RANKED, Sample, WeightedMetrics, count_gradient
from medfm_compress.bench.stats.score_interval import Effects
from medfm_compress.bench.types.metric import Metric

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class _Influence(NamedTuple):
    """Influence of cases on one model's value.

    Attributes:
        cases: [n].
        right: of a case that the model has as right as can be: one positive, one negative.
        wrong: likewise as wrong as can be (see the module for what that means).
    """

    cases: Floats
    right: tuple[float, float]
    wrong: tuple[float, float]


def has_effects(metric: Metric) -> bool:
    """Whether a patient moves ``metric`` by a bounded amount; log loss and ECE have no such bound."""
    return metric not in ("log_loss", "ece")


def paired_effects(sample: Sample, metric: Metric) -> Effects:
    """Effects of the patients of ``sample`` on second − first of ``metric``; only patients who enter it are counted.

    Args:
        sample: of two models.
        metric: one with `has_effects`, defined for both models.
    """
    return contrast_effects(sample, metric, np.array([-1.0, 1.0]))


def contrast_effects(sample: Sample, metric: Metric, weights: Floats) -> Effects:
    """Likewise on Σ ``weights`` · value, of which the last two are −1 and 1: patients are lost between these models.

    Args:
        sample: of as many models as ``weights``.
        metric: one with `has_effects`, defined for all of them.
        weights: e.g. of `drop_difference`.
    """
    models = [_influence(sample, model, metric) for model in range(len(weights))]
    first, second = models[-2:]
    change = _Influence(
        np.asarray(weights @ np.stack([model.cases for model in models])),
        (second.right[0] - first.wrong[0], second.right[1] - first.wrong[1]),
        (second.wrong[0] - first.right[0], second.wrong[1] - first.right[1]),
    )
    values = WeightedMetrics(sample, (metric,)).unweighted()[:, 0]
    return _by_patient(sample, change, float(weights @ values), centred=metric in RANKED)


def own_effects(sample: Sample, model: int, metric: Metric) -> Effects:
    """Likewise on the value of one model."""
    value = float(WeightedMetrics(sample, (metric,)).unweighted()[model, 0])
    return _by_patient(sample, _influence(sample, model, metric), value, centred=metric in RANKED)


def _by_patient(sample: Sample, influence: _Influence, estimate: float, *, centred: bool) -> Effects:
    """Sums over patients, of the cases of classes that have a say, centred in each class where it is a stratum."""
    positive = sample.truth == 1
    cases, ends, used = influence.cases.copy(), [], np.zeros(len(positive), np.bool_)
    for number, rows in enumerate((positive, ~positive)):
        right, wrong = influence.right[number], influence.wrong[number]
        if right == wrong or not rows.any():
            continue
        mean = float(cases[rows].mean()) if centred else 0.0
        cases[rows] -= mean
        ends += [(end - mean) * _most_cases(sample.clusters[rows]) for end in (right, wrong)]
        used |= rows
    patients = np.unique(sample.clusters[used], return_inverse=True)[1]
    effects = np.bincount(patients, weights=cases[used]).astype(np.float64)
    return Effects(estimate, effects * len(effects), min(ends) * len(effects), max(ends) * len(effects))


def _influence(sample: Sample, model: int, metric: Metric) -> _Influence:
    if metric == "auroc":
        return _auroc(sample.scores[model], sample.truth == 1)
    if metric == "auprc":
        return _auprc(sample.scores[model], sample.truth == 1)
    if metric == "brier":
        return _brier(sample.scores[model], sample.truth)
    return _counted(sample.decisions[model], sample.truth, metric)


def _counted(decisions: Integers, truth: Integers, metric: Metric) -> _Influence:
    cells = np.select([truth * decisions == 1, decisions == 1, truth == 1], [0, 1, 2], 3)
    gradient = count_gradient(metric, np.bincount(cells, minlength=4).astype(np.float64))
    tp, fp, fn, tn = (float(value) for value in gradient)
    return _Influence(gradient[cells], (tp, tn), (fn, fp))


def _auroc(scores: Floats, positive: NDArray[np.bool_]) -> _Influence:
    v10, v01 = auroc_components(scores, positive)
    area, m, n = float(v10.mean()), len(v10), len(v01)
    cases = np.empty(len(scores))
    cases[positive], cases[~positive] = (v10 - area) / m, (v01 - area) / n
    return _Influence(cases, ((1 - area) / m, (1 - area) / n), (-area / m, -area / n))


def _auprc(scores: Floats, positive: NDArray[np.bool_]) -> _Influence:
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    group = np.empty(len(scores), np.int64)
    group[order] = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=-1))
    called, hits = ends + 1.0, np.cumsum(positive[order])[ends].astype(np.float64)
    m, gained = hits[-1], np.diff(hits, prepend=0)
    precision = hits / called
    average = float(gained @ precision / m)
    # Sums over the groups that score no higher.
    lower_tp = np.cumsum((gained * hits / called**2)[::-1])[::-1] / m
    lower_fp = np.cumsum((gained * (called - hits) / called**2)[::-1])[::-1] / m
    of_positive, of_negative = (precision - average) / m + lower_fp, -lower_tp
    cases = np.where(positive, of_positive[group], of_negative[group])
    best, lowest = float(cases[positive].max()), float((precision[-1] - average) / m)
    return _Influence(cases, (best, float(cases[~positive].max())), (lowest, float(of_negative[0])))


def _brier(scores: Floats, truth: Integers) -> _Influence:
    errors = (scores - truth) ** 2
    mean, count = float(errors.mean()), len(errors)
    return _Influence((errors - mean) / count, (-mean / count,) * 2, ((1 - mean) / count,) * 2)


def _most_cases(clusters: Integers) -> int:
    """How many cases the patient with the most of them has."""
    return int(np.unique(clusters, return_counts=True)[1].max())
