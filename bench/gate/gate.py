"""The gate: from comparisons, measurements and a policy to pass, fail or inconclusive.

- **Pass**: every required comparison, of all cases and of each group of patients, excludes its margin (the two-sided
  1 − 2α interval of bundle − teacher allows no loss of it), each at α with no correction, since all must hold
  (intersection–union: Berger, Technometrics 24 (1982) 295–300); the lower end of its own interval reaches every floor;
  every budget holds; and every shipped variant passes.
- **Fail**: a budget is broken, a floor lies above the interval, or some comparison is significantly below its margin at
  α after Holm's adjustment over all required comparisons of all variants.
- **Inconclusive**: all else, among it too few patients, an interval that is not finite, and a budget without its
  measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from medfm_compress.bench.evaluate.attribution_agreement import ExplanationAgreement
from medfm_compress.bench.evaluate.confusion_matrix import are_labels_exclusive
from medfm_compress.bench.evaluate.fidelity import check_fidelity, fidelity
from medfm_compress.bench.evaluate.kinds import check_policy
from medfm_compress.bench.evaluate.paired_comparison import compare, too_few
from medfm_compress.bench.evaluate.robustness import asked, compare_drops
from medfm_compress.bench.evaluate.subgroups import Group, divide, restrict
from medfm_compress.bench.gate.budget import check_budget
from medfm_compress.bench.gate.consistent_scores import check_consistent
from medfm_compress.bench.gate.drop_checks import check_drops
from medfm_compress.bench.gate.explanation_checks import check_explanations
from medfm_compress.bench.gate.margin_checks import UNDEFINED, Key, Population, Required, check_required
from medfm_compress.bench.measure.latency_regression import Slowdown
from medfm_compress.bench.report import Report
from medfm_compress.bench.stats.holm import holm
from medfm_compress.bench.types.evaluation import Comparison, Evaluation, Fidelity
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.metric import PER_CASE_METRICS, PLACE_METRICS, Metric
from medfm_compress.bench.types.policy import Policy, check_finding
from medfm_compress.bench.types.robustness import DropComparison
from medfm_compress.bench.types.verdict import Check, VariantVerdict, Verdict
from medfm_compress.runtime.bundle.manifest import Outcome, StoredVerdict
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

NOTHING_REQUIRED = (
    "no comparison was judged, since every one that the policy requires is waived for too few cases; collect more test "
    "patients, or require a comparison over all of them"
)
DEVICE_MISSING = "not evaluated on its device"
NOT_JUDGED = "not judged: "  # begins a note on a comparison that the policy waives where a group is too small
NOT_EVALUATED = "this variant was not evaluated; bench it with the others"


class Evidence(NamedTuple):
    """What a verdict rests on.

    Attributes:
        findings: of the task, and ``""`` where its labels exclude each other.
        populations: all cases first, then the groups of the policy's subgroups.
        comparisons: of every variant.
        fidelity: of every variant.
        measurements: of one bench run.
        slowdowns: against an earlier bundle.
        model_digest: of the bundle.
        shipped: variants to judge; one without comparisons is inconclusive.
        notes: on the cases.
        noise: reasons to distrust the timings.
        left_out: shipped variant → why it could not be evaluated on its device.
        drops: of every variant, on perturbed images.
        explanations: agreement of heat maps with the teacher's, where it was recorded.
        clusters: patient of each case, by number.
    """

    findings: tuple[str, ...]
    populations: tuple[Population, ...]
    comparisons: tuple[Comparison, ...]
    fidelity: tuple[Fidelity, ...]
    measurements: tuple[Measurement, ...] = ()
    slowdowns: tuple[Slowdown, ...] = ()
    model_digest: str = ""
    shipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    noise: tuple[str, ...] = ()
    left_out: Mapping[str, str] = MappingProxyType({})
    drops: tuple[DropComparison, ...] = ()
    explanations: tuple[ExplanationAgreement, ...] = ()
    clusters: tuple[int, ...] = ()

    @property
    def findings_alone(self) -> tuple[str, ...]:
        """The task's findings, without ``""``."""
        return tuple(finding for finding in self.findings if finding)


def gather(teacher: Evaluation, variants: Iterable[Evaluation], policy: Policy, task: Task) -> Evidence:
    """Compare ``variants`` with ``teacher`` under ``policy``; nothing of it was measured yet.

    Raises:
        InputError: evaluations of different cases, or a subgroup column that the study lacks.
    """
    check_policy(policy, task)
    populations, notes = _populations(teacher, policy)
    variants = tuple(variants)
    return Evidence(
        findings=_findings(teacher),
        populations=populations,
        comparisons=tuple(comparison for variant in variants for comparison in compare(teacher, variant, policy)),
        fidelity=tuple(fidelity(teacher, variant, task) for variant in variants),
        shipped=tuple(variant.name for variant in variants),
        notes=(*notes, *mask_notes(teacher, policy)),
    )


def mask_notes(teacher: Evaluation, policy: Policy) -> tuple[str, ...]:
    """How many cases have no mask of a structure to be held against, and in which unit distances are."""
    if set(teacher.case_metrics) == set(PLACE_METRICS):
        return _place_notes(teacher)
    if not teacher.case_metrics:
        return ()
    far = {entry.metric for entry in policy.non_inferiority} & {"hd95", "surface_dice"}
    notes = [f"distances are in {teacher.distance_unit}"] if far else []
    for column, finding in enumerate(teacher.findings):
        absent = int(np.isnan(teacher.case_metrics["dice"][:, column]).sum())
        if absent:
            notes.append(
                f"{absent} of {len(teacher.images)} cases do not show {finding}; they are left out of its Dice, "
                "distances and sensitivity, and count for its false positives"
            )
    return tuple(notes)


def _place_notes(teacher: Evaluation) -> tuple[str, ...]:
    """How many of the abnormal cases nobody drew; nothing where none was drawn, and no place was looked at."""
    drawn = np.isfinite(teacher.case_metrics["pro"][:, 0])
    lacking = int((teacher.truth[:, 0] == 1).sum() - drawn.sum())
    if not drawn.any() or not lacking:
        return ()
    return (f"{lacking} abnormal cases have no mask; they are left out of pixel AUROC and per-region overlap",)


def judge(report: Report) -> Verdict:
    """Judge a report as it was made: its own comparisons, under its own policy; raises like :func:`judge_evidence`."""
    return judge_evidence(recorded_evidence(report), report.policy, policy_sha256=report.policy_sha256)


def recorded_evidence(report: Report) -> Evidence:
    """What a report found, as it was made: nothing is compared again; raises like :func:`gather`."""
    evidence = gather(report.teacher.to_evaluation(), (), report.policy, report.task)
    found = evidence._replace(comparisons=report.comparisons, fidelity=report.fidelity, drops=report.drops)
    return _measured(found, report)


def recompute(report: Report, policy: Policy, shipped: Iterable[str] = ()) -> Evidence:
    """Compare again, from the per-case scores in ``report`` and under ``policy``.

    Args:
        report: its per-case scores and measurements count; its own comparisons do not.
        policy: margins, subgroups, α and resampling.
        shipped: names of all variants in the bundle, where some may not have been evaluated.

    Raises:
        InputError: as :func:`gather`.
    """
    _check_mask_rules(report, policy)
    for table in report.evaluations:
        check_consistent(table.to_evaluation(), report.task_of(table.name))
    for perturbed in report.perturbed:
        for table in perturbed.evaluations:
            check_consistent(table.to_evaluation(), report.task_of(table.name))
    teacher = report.teacher.to_evaluation()
    judged = [table.to_evaluation() for table in report.evaluations[1:] if table.name not in report.external_models]
    evidence = gather(teacher, judged, policy, report.task)
    drops = compare_drops([teacher, *judged], report.perturbed, policy)
    return _measured(evidence._replace(drops=drops), report, shipped)


def _check_mask_rules(report: Report, policy: Policy) -> None:
    """Raises InputError where metrics of masks were computed by other rules than ``policy`` declares."""
    rules = report.teacher.mask_rules
    if rules is not None and rules != policy.masks:
        changed = [name for name in rules.__struct_fields__ if getattr(rules, name) != getattr(policy.masks, name)]
        raise InputError(
            f"the masks of this report were judged by other rules than the policy's ({', '.join(changed)} differ); "
            "bench the bundle again under this policy"
        )


def _measured(evidence: Evidence, report: Report, shipped: Iterable[str] = ()) -> Evidence:
    """``evidence`` with everything of ``report`` that is no comparison."""
    return evidence._replace(
        measurements=report.measurements,
        slowdowns=report.slowdowns,
        model_digest=report.model_digest,
        shipped=tuple(dict.fromkeys([*report.variants, *report.shipped, *shipped])),
        notes=(*evidence.notes, *report.notes, *noise_notes(report.noise)),
        noise=report.noise,
        left_out=report.left_out,
        explanations=report.explanations,
        clusters=report.teacher.clusters,
    )


def noise_notes(noise: Sequence[str]) -> tuple[str, ...]:
    """What a verdict says where there are reasons to distrust the timings."""
    return (f"noisy timings: {'; '.join(noise)}",) if noise else ()


def judge_evidence(evidence: Evidence, policy: Policy, *, policy_sha256: str, notes: tuple[str, ...] = ()) -> Verdict:
    """Judge every shipped variant.

    Raises:
        InputError: nothing to judge, or the policy names a finding that the task does not have.
    """
    if not evidence.shipped:
        raise InputError("there is no variant to judge; bench the bundle first")
    required, waived = _required(policy, evidence)
    comparisons: dict[Key, Comparison] = {(c.variant, c.metric, c.finding, c.subgroup): c for c in evidence.comparisons}
    evaluated = {comparison.variant for comparison in evidence.comparisons}
    adjusted = _adjusted_p(
        [requirement.key(name) for name in evidence.shipped for requirement in required], comparisons
    )
    verdicts = []
    for variant in evidence.shipped:
        checks: list[Check] = []
        for requirement in required:
            key = requirement.key(variant)
            absent = UNDEFINED.get(requirement.entry.metric, "undefined")
            if variant not in evaluated:
                absent = _not_evaluated(evidence.left_out.get(variant, ""))
            comparison = comparisons.get(key)
            checks += check_required(requirement, comparison, absent, adjusted.get(key, 1.0), policy.alpha)
        if not required:
            checks.append(Check(name="comparisons", outcome="inconclusive", reason=NOTHING_REQUIRED))
        near = next((entry for entry in evidence.fidelity if entry.variant == variant), None)
        checks += check_drops(asked(policy, evidence.findings_alone), variant, evidence.drops, policy.alpha)
        checks += check_fidelity(policy.fidelity, near)
        checks += check_explanations(
            policy.explanations, variant, evidence.explanations, evidence.clusters, policy.alpha
        )
        checks += check_budget(policy.budget, variant, evidence.measurements, evidence.slowdowns, evidence.noise)
        outcome = _worst(check.outcome for check in checks)
        verdicts.append(VariantVerdict(variant=variant, outcome=outcome, checks=tuple(checks)))
    return Verdict(
        outcome=_worst(verdict.outcome for verdict in verdicts),
        variants=tuple(verdicts),
        policy_sha256=policy_sha256,
        model_digest=evidence.model_digest,
        notes=(*notes, *evidence.notes, *waived),
    )


def _not_evaluated(reason: str) -> str:
    """Why a variant has no comparison; ``reason`` where its device was not to be had."""
    return f"{DEVICE_MISSING}: {reason}; bench the bundle on a machine that has it" if reason else NOT_EVALUATED


def stored_verdicts(verdict: Verdict, *, report_sha256: str, date: str) -> tuple[StoredVerdict, ...]:
    """What the bundle keeps of ``verdict``: one outcome a variant, and what it rests on."""
    return tuple(
        StoredVerdict(
            variant=judged.variant,
            outcome=judged.outcome,
            model_digest=verdict.model_digest,
            policy_sha256=verdict.policy_sha256,
            report_sha256=report_sha256,
            date=date,
        )
        for judged in verdict.variants
    )


def _findings(teacher: Evaluation) -> tuple[str, ...]:
    """What can be required: the findings, and all labels together where they exclude each other."""
    return teacher.findings + (("",) if are_labels_exclusive(teacher) else ())


def _populations(teacher: Evaluation, policy: Policy) -> tuple[tuple[Population, ...], tuple[str, ...]]:
    """All cases and every group, and for how many cases a column is not recorded."""
    findings = _findings(teacher)
    lacking = {finding: too_few(teacher, finding, policy) for finding in findings}
    populations = [Population("", "", lacking, lacking_values=_lacking_values(teacher, policy))]
    notes = []
    for rule in policy.subgroups:
        division = divide(teacher, rule, policy)
        for group in division.groups:
            populations.append(_population(teacher, group, policy, optional=rule.when_too_few == "named"))
        if division.unrecorded:
            notes.append(
                f"{rule.column} is not recorded for {division.unrecorded} of {len(teacher.images)} cases; they count "
                "among all cases and in no group"
            )
    return tuple(populations), tuple(notes)


def _population(teacher: Evaluation, group: Group, policy: Policy, *, optional: bool) -> Population:
    findings = _findings(teacher)
    if not group.rows.any():
        nobody = "no case is in this group"
        values = dict.fromkeys(_lacking_values(teacher, policy), nobody)
        return Population(group.column, group.name, dict.fromkeys(findings, nobody), optional, values)
    part = restrict(teacher, group.rows)
    lacking = {finding: too_few(part, finding, policy) for finding in findings}
    return Population(group.column, group.name, lacking, optional, _lacking_values(part, policy))


def _lacking_values(evaluation: Evaluation, policy: Policy) -> dict[tuple[Metric, str], str]:
    """Metric of masks that ``policy`` requires, and finding → why there are too few cases with a value."""
    required = {entry.metric for entry in policy.non_inferiority} & set(evaluation.case_metrics)
    return {
        (metric, finding): too_few(evaluation, finding, policy, metric)
        for metric in PER_CASE_METRICS
        if metric in required
        for finding in evaluation.findings
    }


def _required(policy: Policy, evidence: Evidence) -> tuple[tuple[Required, ...], tuple[str, ...]]:
    """The policy's entries, each spelt out, and what is waived because a group is too small for it."""
    for entry in policy.non_inferiority:
        entry.check_finding(evidence.findings)
    for asked_for in policy.robustness:
        check_finding(asked_for.finding, evidence.findings)
    spelt = [
        Required(entry, finding, population)
        for entry in policy.non_inferiority
        for population in evidence.populations
        if population.column == entry.subgroup
        for finding in evidence.findings
        # Over all labels together only accuracy has a meaning.
        if policy.requirement(entry.metric, finding, entry.subgroup) is entry
        and (finding or entry.metric == "accuracy")
    ]
    waived = [entry for entry in spelt if entry.population.optional and entry.lacking]
    notes = tuple(f"{NOT_JUDGED}{entry.name}: {entry.lacking}" for entry in waived)
    return tuple(entry for entry in spelt if entry not in waived), notes


def _adjusted_p(keys: Sequence[Key], comparisons: Mapping[Key, Comparison]) -> dict[Key, float]:
    """Holm-adjusted p-values of all required comparisons that have one."""
    p_values = {key: comparisons[key].p_worse for key in keys if key in comparisons and not comparisons[key].too_few}
    finite = {key: p for key, p in p_values.items() if p is not None and math.isfinite(p)}
    return dict(zip(finite, holm(tuple(finite.values())), strict=True))


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    met = set(outcomes)
    order: tuple[Outcome, ...] = ("fail", "inconclusive")
    return next((outcome for outcome in order if outcome in met), "pass")
