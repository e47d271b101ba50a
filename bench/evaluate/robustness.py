"""Compare what a variant and its teacher lose under a policy's perturbations, paired and clustered by patient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from medfm_compress.bench.evaluate.evaluate import EvaluationTable, number_clusters
from medfm_compress.bench.evaluate.mask_comparison import CaseValues, case_values, farthest, is_same
from medfm_compress.bench.evaluate.paired_comparison import check_same_cases, too_few
from medfm_compress.bench.evaluate.same_output import no_difference, same_output
from medfm_compress.bench.stats import bootstrap
from medfm_compress.bench.stats.auroc import clustered_areas
from medfm_compress.bench.stats.case_means import mean_effects, resample_mean
from medfm_compress.bench.stats.drop_difference import (
    WEIGHTS,
    areas_drop_difference,
    p_areas_drop_below,
    p_resampled_drop_below,
    resampled_drop_difference,
)
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.stats.patient_effects import contrast_effects, has_effects
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, PER_CASE_METRICS, Metric
from medfm_compress.bench.types.perturbation import PerturbationName
from medfm_compress.bench.types.policy import Policy
from medfm_compress.bench.types.robustness import DropComparison

UNDEFINED = "none: undefined in many resamples"


class PerturbedTables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Evaluations on the same cases as the report's, every image perturbed.

    Attributes:
        perturbation: what was done.
        severity: 1 to 3.
        evaluations: the teacher's first.
    """

    perturbation: PerturbationName
    severity: int
    evaluations: tuple[EvaluationTable, ...]


class Asked(NamedTuple):
    """One entry of a policy's ``robustness``, spelt out."""

    perturbation: PerturbationName
    severity: int
    metric: Metric
    finding: str
    margin: float

    @property
    def name(self) -> str:
        """As the check is called."""
        return f"{self.metric} of {self.finding} under {self.perturbation} {self.severity}"

    def key(self, variant: str) -> tuple[str, str, int, str, str]:
        """Which `DropComparison` of ``variant`` answers it."""
        return (variant, self.perturbation, self.severity, self.metric, self.finding)


def asked(policy: Policy, findings: Sequence[str]) -> tuple[Asked, ...]:
    """Every comparison that ``policy`` requires of ``findings``; of two entries for one the stricter margin counts."""
    strictest: dict[tuple[PerturbationName, int, Metric, str], float] = {}
    for entry in policy.robustness:
        for perturbation in entry.perturbations:
            for severity in entry.severities:
                for finding in (entry.finding,) if entry.finding else findings:
                    key = (perturbation, severity, entry.metric, finding)
                    strictest[key] = min(entry.margin, strictest.get(key, entry.margin))
    return tuple(Asked(*key, margin) for key, margin in strictest.items())


def conditions(policy: Policy) -> tuple[tuple[PerturbationName, int], ...]:
    """The perturbations and severities that ``policy`` needs evaluated, each once."""
    pairs = ((p, s) for entry in policy.robustness for p in entry.perturbations for s in entry.severities)
    return tuple(dict.fromkeys(pairs))


def compare_drops(
    clean: Sequence[Evaluation], perturbed: Sequence[PerturbedTables], policy: Policy
) -> tuple[DropComparison, ...]:
    """Every comparison that ``policy`` requires and that there are evaluations for.

    Args:
        clean: the teacher's evaluation and one a variant.
        perturbed: of the same models on the same cases.
        policy: margins, α and resampling.

    Raises:
        InputError: evaluations of different cases.
    """
    teacher, *variants = clean
    known = list(teacher.findings)
    tables = {(entry.perturbation, entry.severity): entry for entry in perturbed}
    found = []
    for question in asked(policy, known):
        entry = tables.get((question.perturbation, question.severity))
        if entry is None or question.finding not in known:
            continue
        by_name = {table.name: table for table in entry.evaluations}
        for variant in variants:
            if teacher.name in by_name and variant.name in by_name:
                pair = (by_name[teacher.name].to_evaluation(), by_name[variant.name].to_evaluation())
                found.append(_compare(question, (teacher, variant), pair, policy))
    return tuple(found)


def _compare(
    question: Asked, clean: tuple[Evaluation, Evaluation], perturbed: tuple[Evaluation, Evaluation], policy: Policy
) -> DropComparison:
    four = (*clean, *perturbed)
    check_same_cases(*clean)
    check_same_cases(*perturbed)
    if not np.array_equal(clean[0].truth, perturbed[0].truth):
        check_same_cases(clean[0], perturbed[0])
    column = clean[0].findings.index(question.finding)
    sample = Sample(
        np.stack([model.scores[:, column] for model in four]),
        np.stack([model.decisions[:, column] for model in four]),
        clean[0].truth[:, column],
        number_clusters(clean[0].clusters),
    )
    lacking = too_few(clean[0], question.finding, policy, question.metric)
    same = all(same_output(*pair, slice(column, column + 1)) for pair in (clean, perturbed))
    if question.metric in PER_CASE_METRICS:
        cases = case_values(four, question.metric, column)
        values = cases.values.mean(axis=1) if len(cases.clusters) else np.zeros(4)
        same = same and all(is_same(cases.values[start : start + 2], question.metric) for start in (0, 2))
        interval, p_worse = _judged_means(question, cases, policy) if not lacking else (None, 1.0)
    else:
        values = WeightedMetrics(sample, (question.metric,)).unweighted()[:, 0]
        interval, p_worse = _judged(question, sample, policy) if not lacking else (None, 1.0)
    if same and not lacking and np.isfinite(values).all():
        interval, p_worse = no_difference(1 - 2 * policy.alpha), 1.0
    if interval is None:
        interval = Interval(
            estimate=float(WEIGHTS @ values), low=-2.0, high=2.0, level=1 - 2 * policy.alpha, method=UNDEFINED
        )
    return DropComparison(
        perturbation=question.perturbation,
        severity=question.severity,
        metric=question.metric,
        finding=question.finding,
        variant=clean[1].name,
        teacher=(float(values[0]), float(values[2])),
        bundle=(float(values[1]), float(values[3])),
        difference=interval,
        margin=question.margin,
        p_worse=p_worse,
        too_few=lacking,
    )


def _judged_means(question: Asked, cases: CaseValues, policy: Policy) -> tuple[Interval | None, float]:
    """Likewise of the means of values that each case has."""
    seed, errors = (policy.seed, len(question.name)), question.metric in LOWER_IS_BETTER
    resampled = resample_mean(cases.values, cases.clusters, resamples=policy.resamples, seed=seed)
    most = farthest(cases.values, question.metric)
    effects = mean_effects(WEIGHTS @ cases.values, cases.clusters, -most, most)
    interval = resampled_drop_difference(resampled, effects, cases.patients, 1 - 2 * policy.alpha)
    return interval, p_resampled_drop_below(resampled, effects, -question.margin, errors=errors)


def _judged(question: Asked, sample: Sample, policy: Policy) -> tuple[Interval | None, float]:
    level, metric = 1 - 2 * policy.alpha, question.metric
    is_defined = bool(np.isfinite(WeightedMetrics(sample, (metric,)).unweighted()).all())
    effects = contrast_effects(sample, metric, WEIGHTS) if has_effects(metric) and is_defined else None
    if metric == "auroc" and effects is not None:
        areas = clustered_areas(sample.scores, sample.truth, sample.clusters)
        return areas_drop_difference(areas, effects, level), p_areas_drop_below(areas, effects, -question.margin)
    strata = np.zeros(int(sample.clusters.max()) + 1, dtype=np.int64)
    np.maximum.at(strata, sample.clusters, sample.truth)
    resampled = bootstrap.resample(
        WeightedMetrics(sample, (question.metric,)),
        strata,
        cases=len(sample.truth),
        resamples=policy.resamples,
        seed=(policy.seed, len(question.name)),
    ).of(lambda values: values[..., 0])
    patients = int(np.bincount(strata).min())
    interval = resampled_drop_difference(resampled, effects, patients, level)
    errors = metric in LOWER_IS_BETTER
    return interval, p_resampled_drop_below(resampled, effects, -question.margin, errors=errors)
