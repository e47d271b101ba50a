"""How well classifiers from few labels do, and how far another draw of labels or other test cases would move it.

For every draw d of labels and every resample r of the patients of the split (with replacement, within each class, the
same for all), the metric M_dr is computed; M_d on the patients as they are. Then

    mean             mean over d of M_d
    over draws       2.5 and 97.5 percentile of M_d over d:          other labels, these test cases
    over cases       95% interval of mean_d M_d, from the resamples:   these draws, other test cases
    over both        2.5 and 97.5 percentile of M_dr over all d, r:  other labels and other test cases

The first two are what a comparison of encoders on one split can claim; the last is what one person, who labels once,
has to expect. Metrics are macro AUROC, one label against the rest, and balanced accuracy (the mean sensitivity over
labels) of the most probable label. `over cases` is the bootstrap of `bench.stats.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import number_clusters
from medfm_compress.bench.stats.bootstrap import Resampled, interval, resample
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.compress.few_labels.linear_classifier import Floats, Integers

METRICS = ("auroc", "balanced_accuracy")
LEVEL = 0.95
_TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


class JudgedCases(NamedTuple):
    """The cases that classifiers are judged on.

    Attributes:
        classes: ``[n]``, each of 0 … labels − 1.
        clusters: whose they are, ``[n]``.
    """

    classes: Integers
    clusters: tuple[str, ...]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A metric, or a difference of two, over draws and over cases; ends are None where they are not defined.

    Attributes:
        mean: over draws.
        over_draws: low and high end, see the module.
        over_cases: likewise.
        over_both: likewise.
    """

    mean: float
    over_draws: tuple[float, float] | None
    over_cases: tuple[float, float] | None
    over_both: tuple[float, float] | None


def resampled_metrics(logits: Sequence[Floats], judged: JudgedCases, resamples: int, seed: int) -> dict[str, Resampled]:
    """Metric → its values, one a draw, on the cases, on resamples of their patients and without single ones.

    Args:
        logits: of every draw ``[n, labels]``.
        judged: the cases.
        resamples: how many.
        seed: equal seeds give equal resamples, so that two results of the same cases are paired.
    """
    stacked = np.stack(logits)
    labels, called = stacked.shape[2], stacked.argmax(axis=2)
    clusters = number_clusters(judged.clusters)
    # The margin over the best other label ranks as the softmax does, without its ties at 0 and 1.
    measures = [
        WeightedMetrics(
            Sample(
                margin(stacked, label),
                (called == label).astype(np.int64),
                (judged.classes == label).astype(np.int64),
                clusters,
            ),
            ("auroc", "sensitivity"),
        )
        for label in range(labels)
    ]
    strata = np.zeros(int(clusters.max()) + 1, dtype=np.int64)
    np.maximum.at(strata, clusters, judged.classes)

    def macro(weights: NDArray[np.int32] | Floats) -> Floats:
        return np.asarray(np.mean([measure(weights) for measure in measures], axis=0))

    cases = len(judged.classes) * len(stacked) * labels
    result = resample(macro, strata, cases=cases, resamples=resamples, seed=(seed,))
    return {name: result.of(lambda values, at=number: values[..., at]) for number, name in enumerate(METRICS)}  # type: ignore[misc]


def margin(logits: Floats, label: int) -> Floats:
    """Log odds of ``label`` in a softmax over the last axis of ``logits``."""
    rest = np.delete(logits, label, axis=-1)
    highest = rest.max(axis=-1, keepdims=True)
    total = highest[..., 0] + np.log(np.exp(rest - highest).sum(axis=-1))
    return np.asarray(logits[..., label] - total)


def spread(values: Resampled) -> Spread:
    """What `resampled_metrics` gave of one metric, as numbers; `Resampled.of` may have made it a difference."""
    of_draws, of_both = values.estimate, values.replicates
    of_mean = interval(values.of(lambda v: np.asarray(v.mean(axis=-1))), LEVEL)
    return Spread(
        mean=float(of_draws.mean()),
        over_draws=_ends(of_draws) if len(of_draws) > 1 else None,
        over_cases=None if of_mean is None else (of_mean.low, of_mean.high),
        over_both=_ends(of_both),
    )


def difference(a: Resampled, b: Resampled) -> Resampled:
    """``a`` − ``b``, draw by draw and resample by resample: both of the same cases, draws and seed."""
    deletions = tuple(x - y for x, y in zip(a.deletions, b.deletions, strict=True))
    return Resampled(a.estimate - b.estimate, a.replicates - b.replicates, deletions, a.clusters)


def _ends(values: Floats) -> tuple[float, float] | None:
    finite = values[np.isfinite(values)]
    if finite.size < 0.99 * values.size:
        return None
    low, high = np.quantile(finite, _TAILS)
    return float(low), float(high)
