"""Compare the means of per-case values of two models, such as Dice's: paired, clustered by patient.

    D = Σ_i (b_i − t_i) / n     over the cases that have a value, which are the same for both models

The interval is the BCa bootstrap's over patients with expanded tails, and never shorter than the score's (`stats.
score_interval`), which allows for a loss in few patients that the sample does not hold. The case that is lost as far as
it can be loses 1 of a share; of a distance or a count, as much as the worst case that either model has, and a count
at least 1. A mean's own interval is made in the same way.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import number_clusters
from medfm_compress.bench.evaluate.same_output import no_difference
from medfm_compress.bench.stats import bootstrap
from medfm_compress.bench.stats.bootstrap_difference import change
from medfm_compress.bench.stats.case_means import mean_effects, resample_mean
from medfm_compress.bench.stats.score_interval import (
    Effects,
    least_loss,
    no_shorter,
    p_score_below,
    score_interval,
    weaker,
)
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, UNBOUNDED, Metric
from medfm_compress.bench.types.policy import Policy

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
NO_CASES = "no case has a value"
_SAME: dict[str, float] = {"hd95": 0.5}  # px or mm; of engines that round otherwise at a pixel's edge
_SAME_SHARE = 0.01


class CaseValues(NamedTuple):
    """Values of two models on the cases that have one.

    Attributes:
        values: [2, n], the teacher's first.
        clusters: [n], patients, numbered without gaps.
    """

    values: Floats
    clusters: Integers

    @property
    def patients(self) -> int:
        """How many."""
        return int(self.clusters.max(initial=-1)) + 1


class MeanComparison(NamedTuple):
    """Means of two models and their difference; ``p_worse`` is None without a margin."""

    teacher: Interval
    bundle: Interval
    difference: Interval
    p_worse: float | None
    least_loss: float | None


def case_values(models: tuple[Evaluation, ...], metric: Metric, column: int) -> CaseValues:
    """Values of ``models`` on the cases that have one, which depends on the truth alone."""
    values = np.stack([model.case_metrics[metric][:, column] for model in models])
    rows = np.isfinite(values).all(axis=0)
    clusters = np.unique(number_clusters(models[0].clusters)[rows], return_inverse=True)[1].astype(np.int64)
    return CaseValues(values[:, rows], clusters)


def too_few_values(evaluation: Evaluation, metric: Metric, column: int, policy: Policy) -> str:
    """Why too few patients have a value of ``metric``; empty where they suffice."""
    patients = len(np.unique(number_clusters(evaluation.clusters)))
    cases = case_values((evaluation,), metric, column)
    counts = (
        ("patients", patients, policy.min_clusters),
        (f"patients with a value of {metric}", cases.patients, policy.min_positives),
    )
    return "; ".join(f"{count} {what}, the policy asks for {least}" for what, count, least in counts if count < least)


def is_same(values: Floats, metric: Metric) -> bool:
    """Whether two models' values ``[2, n]`` differ by no more than rounding at the edge of a mask."""
    return float(np.abs(values[1] - values[0]).max(initial=0)) <= _SAME.get(metric, _SAME_SHARE)


def compare_means(
    cases: CaseValues, metric: Metric, policy: Policy, margin: float | None, *, seed: tuple[int, ...], same: bool
) -> MeanComparison:
    """Compare the means of ``cases``.

    Args:
        cases: at least one.
        metric: what the values are.
        policy: α and resamples.
        margin: of the policy, in the metric's unit; None requires nothing.
        seed: of the bootstrap.
        same: whether the models are one network in two engines.
    """
    errors, level = metric in LOWER_IS_BETTER, 1 - 2 * policy.alpha
    resampled = resample_mean(cases.values, cases.clusters, resamples=policy.resamples, seed=seed)
    most = farthest(cases.values, metric)
    own = [_own(cases, model, resampled, most, level) for model in (0, 1)]
    effects = mean_effects(cases.values[1] - cases.values[0], cases.clusters, -most, most)
    if same:
        return MeanComparison(own[0], own[1], no_difference(level), None if margin is None else 1.0, 0.0)
    ends = (-most, most) if metric not in UNBOUNDED else (-np.inf, np.inf)
    difference = _interval(change(resampled), effects, level, ends)
    p_worse = None if margin is None else _p_worse(resampled, effects, margin, errors=errors)
    return MeanComparison(own[0], own[1], difference, p_worse, least_loss(effects, policy.alpha, errors=errors))


def without_interval(
    cases: CaseValues, metric: Metric, policy: Policy, margin: float | None, *, seed: tuple[int, ...], same: bool
) -> MeanComparison:
    """The means with the widest intervals, of a distance or count as wide as the worst case; as `compare_means`."""
    level, most = 1 - 2 * policy.alpha, 1.0
    if metric in UNBOUNDED:
        most = farthest(cases.values, metric)
    teacher, bundle = (float(row.mean()) for row in cases.values)
    low = 0.0
    return MeanComparison(
        _widest(teacher, low, most, level),
        _widest(bundle, low, most, level),
        _widest(bundle - teacher, -most, most, level),
        None,
        None,
    )


def _own(cases: CaseValues, model: int, resampled: bootstrap.Resampled, most: float, level: float) -> Interval:
    effects = mean_effects(cases.values[model], cases.clusters, 0.0, most)
    return _interval(resampled.of(lambda values: values[..., model]), effects, level, (0.0, np.inf if most != 1 else 1))


def _interval(resampled: bootstrap.Resampled, effects: Effects, level: float, ends: tuple[float, float]) -> Interval:
    interval = bootstrap.interval(resampled, level) if resampled.deletions else None
    reached = score_interval(effects, level) if interval is None else no_shorter(interval, effects)
    return msgspec.structs.replace(reached, low=max(reached.low, ends[0]), high=min(reached.high, ends[1]))


def _p_worse(resampled: bootstrap.Resampled, effects: Effects, margin: float, *, errors: bool) -> float:
    """It inverts the end of the interval at which the loss lies."""
    signed = change(resampled).of(np.negative) if errors else change(resampled)
    score = p_score_below(effects.mirrored() if errors else effects, -margin)
    return weaker(bootstrap.p_below(signed, -margin), score) if resampled.deletions else score


def farthest(values: Floats, metric: Metric) -> float:
    """How far a case can be lost: 1 of a share, else as far as the worst case of either model."""
    return max(float(values.max(initial=0)), 1.0) if metric in UNBOUNDED else 1.0


def _widest(estimate: float, low: float, high: float, level: float) -> Interval:
    return Interval(estimate=estimate, low=low, high=high, level=level, method="none: too few cases")
