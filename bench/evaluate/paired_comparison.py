"""Compare a variant with its teacher on the same cases: every metric of every finding, paired, clustered by patient.

Accuracy, sensitivity, specificity and their balanced mean have the score interval over patients, which is Tango's where
each has one case. AUROC has the closed form of `stats.auroc_difference`. All else is bootstrapped with resamples that
teacher and variant share (`stats.bootstrap_difference`). No interval but log loss's and ECE's is shorter than the
score's, which allows for a loss in few patients that the sample does not hold; of a model's own AUROC and bootstrapped
metrics this holds where the policy asks for a floor. Three cases are handled apart:

- Too few patients for the policy: the widest interval possible stands in its place, and the reason with it.
- The two models are one network in two engines (`same_output`): the difference is 0, with no width.
- A metric that is undefined for one of the two (the PPV of a model that calls nothing) gives no comparison.

Metrics of masks, of which every case has a value, are compared by their means: see `mask_comparison`.

Groups of patients are compared like the whole, each on its own cases. What is not required of them is left out, but for
AUROC, since a wall of figures hides the one that matters.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.confusion_matrix import Confusion, are_labels_exclusive, confusion, confusion_matrix
from medfm_compress.bench.evaluate.evaluate import check_evaluation, number_clusters
from medfm_compress.bench.evaluate.kinds import kind_of_evaluation
from medfm_compress.bench.evaluate.mask_comparison import (
    case_values,
    compare_means,
    is_same,
    too_few_values,
    without_interval,
)
from medfm_compress.bench.evaluate.same_output import no_difference, same_output
from medfm_compress.bench.evaluate.subgroups import Group, divide, restrict
from medfm_compress.bench.stats import bootstrap, bootstrap_difference
from medfm_compress.bench.stats.auroc import area_interval, clustered_areas
from medfm_compress.bench.stats.auroc_difference import area_difference, p_area_below
from medfm_compress.bench.stats.bootstrap_difference import p_resampled_below, resampled_difference
from medfm_compress.bench.stats.metrics import LOG_CLIP, Sample, WeightedMetrics
from medfm_compress.bench.stats.patient_effects import has_effects, own_effects, paired_effects
from medfm_compress.bench.stats.score_interval import least_loss, no_shorter, p_score_below, score_interval
from medfm_compress.bench.types.evaluation import Comparison, Evaluation
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, PER_CASE_METRICS, Metric
from medfm_compress.bench.types.policy import NonInferiority, Policy
from medfm_compress.runtime.errors import InputError

__all__ = ["Confusion", "check_same_cases", "compare", "confusion", "confusion_matrix", "too_few"]

TIE = 1e-12
SHARES: frozenset[Metric] = frozenset({"accuracy", "sensitivity", "specificity", "balanced_accuracy"})
METHOD_OWN = "score over patients, as Wilson's"
UNDEFINED = "none: undefined in many resamples"
Integers = NDArray[np.int64]


class _Question(NamedTuple):
    """One finding of one variant, and all that is needed to compare it."""

    finding: str
    variant: str
    sample: Sample
    strata: Integers
    policy: Policy
    seed: tuple[int, ...]
    same: bool
    too_few: str
    group: Group | None


class _Answer(NamedTuple):
    teacher: Interval
    bundle: Interval
    difference: Interval
    p_worse: float | None = None
    least_loss: float | None = None


def compare(teacher: Evaluation, bundle: Evaluation, policy: Policy) -> tuple[Comparison, ...]:
    """Compare ``bundle`` (one variant) with ``teacher``.

    Returns:
        For each finding every metric that is defined for both, in the order of its kind; then, where the labels
        exclude each other, the accuracy over all of them under the finding ``""``. After that the same for every group
        of the policy's subgroups, with AUROC and what the policy requires there.

    Raises:
        InputError: the two were not evaluated on the same cases, or the study lacks a column that the policy names.
    """
    check_same_cases(teacher, bundle)
    comparisons = _compare_group(teacher, bundle, policy, None)
    for rule in policy.subgroups:
        for group in divide(teacher, rule, policy).groups:
            if group.rows.any():
                parts = restrict(teacher, group.rows), restrict(bundle, group.rows)
                comparisons += _compare_group(*parts, policy, group)
    return tuple(comparisons)


def _compare_group(teacher: Evaluation, bundle: Evaluation, policy: Policy, group: Group | None) -> list[Comparison]:
    comparisons: list[Comparison] = []
    kind = kind_of_evaluation(teacher)
    for number, finding in enumerate(teacher.findings):
        column = None if group is None else group.column
        metrics = tuple(
            metric
            for metric in kind.metrics
            if column is None or metric == kind.headline or policy.requirement(metric, finding, column)
        )
        question = _by_finding(teacher, bundle, policy, number, group)
        comparisons += _compare_masks(question, (teacher, bundle), number, metrics)
        comparisons += _compare(question, tuple(metric for metric in metrics if metric not in PER_CASE_METRICS))
    wants_overall = group is None or policy.requirement("accuracy", "", group.column) is not None
    if wants_overall and are_labels_exclusive(teacher) and are_labels_exclusive(bundle):
        comparisons += _compare(_overall(teacher, bundle, policy, group), ("accuracy",))
    return comparisons


def _compare_masks(
    question: _Question, models: tuple[Evaluation, Evaluation], number: int, metrics: tuple[Metric, ...]
) -> list[Comparison]:
    """Metrics of masks of one finding, each on the cases that have a value."""
    comparisons = []
    for metric in (metric for metric in metrics if metric in PER_CASE_METRICS):
        required, cases = _requirement(question, metric), case_values(models, metric, number)
        margin = required.margin if required else None
        lacking = too_few_values(models[0], metric, number, question.policy)
        if not len(cases.clusters):
            continue
        same = question.same and is_same(cases.values, metric)
        compare_values = without_interval if lacking else compare_means
        answer = compare_values(cases, metric, question.policy, margin, seed=question.seed, same=same)
        compared = _comparison(question, metric, _Answer(*answer))
        own = {"cases": len(cases.clusters), "patients": cases.patients, "too_few": lacking}
        comparisons.append(msgspec.structs.replace(compared, **own))
    return comparisons


def check_same_cases(teacher: Evaluation, bundle: Evaluation) -> None:
    """Check that two evaluations are of the same images, in the same order, with the same truth and patients.

    Raises:
        InputError: they are not.
    """
    for evaluation in (teacher, bundle):
        check_evaluation(evaluation)
    for what in ("findings", "images"):
        if getattr(teacher, what) != getattr(bundle, what):
            raise InputError(
                f"{bundle.name!r} has other {what} than {teacher.name!r}; evaluate both on the same study and split"
            )
    same_patients = np.array_equal(number_clusters(teacher.clusters), number_clusters(bundle.clusters))
    if not same_patients or not np.array_equal(teacher.truth, bundle.truth):
        raise InputError(f"{bundle.name!r} has other truth or patients than {teacher.name!r}; evaluate both again")


def too_few(evaluation: Evaluation, finding: str, policy: Policy, metric: Metric = "auroc") -> str:
    """Why the cases are too few to judge ``finding`` (``""`` for all labels together); empty where they suffice."""
    if metric in PER_CASE_METRICS:
        return too_few_values(evaluation, metric, evaluation.findings.index(finding), policy)
    clusters = number_clusters(evaluation.clusters)
    counts = [("patients", len(np.unique(clusters)), policy.min_clusters)]
    if finding:
        positive = evaluation.truth[:, evaluation.findings.index(finding)] == 1
        counts += [
            ("patients with it", len(np.unique(clusters[positive])), policy.min_positives),
            ("patients without it", len(np.unique(clusters[~positive])), policy.min_negatives),
        ]
    lacking = [f"{count} {what}, the policy asks for {least}" for what, count, least in counts if count < least]
    return "; ".join(lacking)


def _by_finding(teacher: Evaluation, bundle: Evaluation, policy: Policy, number: int, group: Group | None) -> _Question:
    """One finding against all else; strata are the patients with and without it."""
    scores = np.stack([teacher.scores[:, number], bundle.scores[:, number]])
    decisions = np.stack([teacher.decisions[:, number], bundle.decisions[:, number]])
    sample = Sample(scores, decisions, teacher.truth[:, number], number_clusters(teacher.clusters))
    return _Question(
        finding=teacher.findings[number],
        variant=bundle.name,
        sample=sample,
        strata=_cluster_maximum(sample.truth, sample.clusters),
        policy=policy,
        seed=(policy.seed, number),
        same=same_output(teacher, bundle, slice(number, number + 1)),
        too_few=too_few(teacher, teacher.findings[number], policy),
        group=group,
    )


def _overall(teacher: Evaluation, bundle: Evaluation, policy: Policy, group: Group | None) -> _Question:
    """Whether the decided label is the true one, as a "finding" that every case has; strata are the labels."""
    correct = np.stack([(model.truth * model.decisions).sum(axis=1) for model in (teacher, bundle)])
    clusters = number_clusters(teacher.clusters)
    sample = Sample(correct.astype(np.float64), correct, np.ones(len(clusters), dtype=np.int64), clusters)
    return _Question(
        finding="",
        variant=bundle.name,
        sample=sample,
        strata=_cluster_maximum(teacher.truth.argmax(axis=1), clusters),
        policy=policy,
        seed=(policy.seed, len(teacher.findings)),
        same=same_output(teacher, bundle, slice(None)),
        too_few=too_few(teacher, "", policy),
        group=group,
    )


def _cluster_maximum(values: Integers, clusters: Integers) -> Integers:
    """Largest value in each cluster; shape [clusters]."""
    largest = np.zeros(int(clusters.max()) + 1, dtype=np.int64)
    np.maximum.at(largest, clusters, values)
    return largest


def _compare(question: _Question, metrics: tuple[Metric, ...]) -> list[Comparison]:
    if not metrics:
        return []
    find = _without_intervals if question.too_few else _with_intervals
    answers = find(question, metrics)
    return [_comparison(question, metric, answers[metric]) for metric in metrics if metric in answers]


def _comparison(question: _Question, metric: Metric, answer: _Answer) -> Comparison:
    required, sample = _requirement(question, metric), question.sample
    return Comparison(
        metric=metric,
        finding=question.finding,
        variant=question.variant,
        subgroup=question.group.name if question.group else "",
        cases=len(sample.truth),
        patients=int(sample.clusters.max()) + 1,
        patients_with=len(np.unique(sample.clusters[sample.truth == 1])),
        teacher=answer.teacher,
        bundle=answer.bundle,
        difference=answer.difference,
        margin=required.margin if required else None,
        p_worse=answer.p_worse,
        least_loss=answer.least_loss,
        too_few=question.too_few,
    )


def _requirement(question: _Question, metric: Metric) -> NonInferiority | None:
    column = question.group.column if question.group else ""
    return question.policy.requirement(metric, question.finding, column)


def _without_intervals(question: _Question, metrics: tuple[Metric, ...]) -> dict[Metric, _Answer]:
    values = WeightedMetrics(question.sample, metrics).unweighted()
    level, method = _level(question.policy), "none: too few cases"
    return {
        metric: _Answer(
            _widest(float(teacher), level, method, (0.0, _most(metric))),
            _widest(float(bundle), level, method, (0.0, _most(metric))),
            _widest(float(bundle - teacher), level, method, (-_most(metric), _most(metric))),
        )
        for metric, (teacher, bundle) in zip(metrics, values.T, strict=True)
        if np.isfinite(bundle - teacher)
    }


def _with_intervals(question: _Question, metrics: tuple[Metric, ...]) -> dict[Metric, _Answer]:
    values = WeightedMetrics(question.sample, metrics).unweighted()
    defined = [metric for metric, column in zip(metrics, values.T, strict=True) if np.isfinite(column).all()]
    answers = {metric: _compare_shares(question, metric) for metric in defined if metric in SHARES}
    if "auroc" in metrics:
        answers["auroc"] = _compare_areas(question)
    left = tuple(metric for metric in defined if metric not in answers)
    return answers | _compare_counted(question, left) if left else answers


def _compare_shares(question: _Question, metric: Metric) -> _Answer:
    level, effects = _level(question.policy), paired_effects(question.sample, metric)
    own = [score_interval(own_effects(question.sample, model, metric), level, METHOD_OWN) for model in (0, 1)]
    required = _requirement(question, metric)
    p_worse = p_score_below(effects, -required.margin) if required else None
    return _decided(question, metric, own, score_interval(effects, level), p_worse)


def _decided(
    question: _Question, metric: Metric, own: list[Interval], difference: Interval, p_worse: float | None
) -> _Answer:
    """The answer; for equal outputs no difference, which is never worse than a margin."""
    if question.same:
        return _Answer(own[0], own[1], no_difference(difference.level), None if p_worse is None else 1.0, 0.0)
    least = None
    if has_effects(metric):
        effects, errors = paired_effects(question.sample, metric), metric in LOWER_IS_BETTER
        least = least_loss(effects, question.policy.alpha, errors=errors)
    return _Answer(own[0], own[1], difference, p_worse, least)


def _compare_counted(question: _Question, counted: tuple[Metric, ...]) -> dict[Metric, _Answer]:
    sample, policy = question.sample, question.policy
    resampled = bootstrap.resample(
        WeightedMetrics(sample, counted),
        question.strata,
        cases=len(sample.truth),
        resamples=policy.resamples,
        seed=question.seed,
    )
    return {
        metric: _compare_resampled(question, metric, _column(resampled, column))
        for column, metric in enumerate(counted)
    }


def _column(resampled: bootstrap.Resampled, column: int) -> bootstrap.Resampled:
    return resampled.of(lambda values: values[..., column])


def _compare_areas(question: _Question) -> _Answer:
    sample, level = question.sample, _level(question.policy)
    areas = clustered_areas(sample.scores, sample.truth, sample.clusters)
    effects = paired_effects(sample, "auroc")
    own = [_shown(question, "auroc", model, area_interval(areas, model, level)) for model in (0, 1)]
    required = _requirement(question, "auroc")
    p_worse = p_area_below(areas, effects, -required.margin) if required else None
    return _decided(question, "auroc", own, area_difference(areas, effects, level), p_worse)


def _compare_resampled(question: _Question, metric: Metric, values: bootstrap.Resampled) -> _Answer:
    """Compare one bootstrapped metric, ``values`` being ``[resamples, models]``."""
    sample, level, most = question.sample, _level(question.policy), _most(metric)
    effects = paired_effects(sample, metric) if has_effects(metric) else None
    own = [_own(question, metric, model, values) for model in (0, 1)]
    errors = metric in LOWER_IS_BETTER
    interval = resampled_difference(values, effects, level, errors=errors)
    if interval is None:
        estimate = float(bootstrap_difference.change(values).estimate)
        interval = _widest(estimate, level, UNDEFINED, (-most, most))
    required = _requirement(question, metric)
    p_worse = p_resampled_below(values, effects, -required.margin, errors=errors) if required else None
    return _decided(question, metric, own, _clipped(interval, (-most, most)), p_worse)


def _own(question: _Question, metric: Metric, model: int, values: bootstrap.Resampled) -> Interval:
    """One model's interval; where no resample differs from another, the score's."""
    level, ends = _level(question.policy), (0.0, _most(metric))
    single = values.of(lambda v: v[..., model])
    interval = bootstrap.interval(single, level)
    if interval is None:
        return _widest(float(single.estimate), level, UNDEFINED, ends)
    if interval.high - interval.low <= TIE and has_effects(metric):
        interval = score_interval(own_effects(question.sample, model, metric), level, METHOD_OWN)
    return _clipped(_shown(question, metric, model, interval), ends)


def _shown(question: _Question, metric: Metric, model: int, interval: Interval) -> Interval:
    """One model's interval; where a floor is asked of it, no shorter than the score's, so that the floor is shown.

    The usual interval holds where the sample holds whatever is lost: of 20 ill patients of whom 2 % are not seen, two
    thirds of the samples hold none of these, and DeLong's then lies above the truth.
    """
    required = _requirement(question, metric)
    floors = (required.teacher_floor, required.bundle_floor) if required else (None, None)
    if floors[model] is None or not has_effects(metric):
        return interval
    return _clipped(no_shorter(interval, own_effects(question.sample, model, metric)), (0.0, _most(metric)))


def _clipped(interval: Interval, ends: tuple[float, float]) -> Interval:
    return msgspec.structs.replace(interval, low=max(interval.low, ends[0]), high=min(interval.high, ends[1]))


def _most(metric: Metric) -> float:
    """The largest value that ``metric`` can take."""
    return -math.log(LOG_CLIP) if metric == "log_loss" else 1.0


def _level(policy: Policy) -> float:
    """Two-sided level whose ends are one-sided at the policy's α."""
    return 1 - 2 * policy.alpha


def _widest(estimate: float, level: float, method: str, ends: tuple[float, float]) -> Interval:
    return Interval(estimate=estimate, low=ends[0], high=ends[1], level=level, method=method)
