"""The gate: from comparisons, measurements and a policy to pass, fail or inconclusive.

- **Pass**: every required comparison excludes its margin (lower end of the two-sided 1 − 2α interval above −margin),
  each at α with no correction, since all must hold (intersection–union: Berger, Technometrics 24 (1982) 295–300); every
  floor and budget holds; and every shipped variant passes.
- **Fail**: a budget or floor is broken, or some comparison is significantly below its margin at α after Holm's
  adjustment over all required comparisons of all variants.
- **Inconclusive**: all else, among it too few patients, an interval that is not finite, and a budget without its
  measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from medfm_compress.bench.budget import check_budget
from medfm_compress.bench.compare import compare
from medfm_compress.bench.confusion import are_labels_exclusive
from medfm_compress.bench.report import Report
from medfm_compress.bench.stats.holm import holm
from medfm_compress.bench.types import (
    Check,
    Comparison,
    Evaluation,
    Interval,
    Measurement,
    NonInferiority,
    Policy,
    VariantVerdict,
    Verdict,
)
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.manifest import Outcome, StoredVerdict

Key = tuple[str, str, str]


class Evidence(NamedTuple):
    """What a verdict rests on.

    Attributes:
        findings: of the task, and ``""`` where its labels exclude each other.
        comparisons: of every variant.
        measurements: of one bench run.
        model_digest: of the bundle.
        shipped: variants to judge; one without comparisons is inconclusive.
    """

    findings: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    measurements: tuple[Measurement, ...]
    model_digest: str
    shipped: tuple[str, ...]


def gather(
    teacher: Evaluation,
    variants: Mapping[str, Evaluation],
    measurements: Sequence[Measurement],
    policy: Policy,
    *,
    model_digest: str = "",
    shipped: Iterable[str] = (),
) -> Evidence:
    """Compare every variant with the teacher under ``policy``.

    Args:
        teacher: its evaluation.
        variants: evaluation of each variant under its name, on the same cases.
        measurements: named ``teacher`` and like the variants.
        policy: margins, α and resampling.
        model_digest: of the bundle.
        shipped: names of all variants in the bundle, where some may not have been evaluated.

    Raises:
        InputError: no variant, or evaluations of different cases.
    """
    compared = [comparison for evaluation in variants.values() for comparison in compare(teacher, evaluation, policy)]
    names = tuple(dict.fromkeys([*variants, *shipped]))
    return Evidence(_findings(teacher), tuple(compared), tuple(measurements), model_digest, names)


def judge(report: Report) -> Verdict:
    """Judge a report as it was made: its own comparisons, under its own policy; raises like :func:`judge_evidence`."""
    evidence = Evidence(
        _findings(report.teacher.to_evaluation()),
        report.comparisons,
        report.measurements,
        report.model_digest,
        report.shipped or report.variants,
    )
    return judge_evidence(evidence, report.policy, policy_sha256=report.policy_sha256)


def recompute(report: Report, policy: Policy, shipped: Iterable[str] = ()) -> Evidence:
    """Compare again, from the per-case scores in ``report`` and under ``policy``; raises like :func:`gather`."""
    teacher, *variants = (table.to_evaluation() for table in report.evaluations)
    return gather(
        teacher,
        {variant.name: variant for variant in variants},
        report.measurements,
        policy,
        model_digest=report.model_digest,
        shipped=shipped,
    )


def judge_evidence(evidence: Evidence, policy: Policy, *, policy_sha256: str, notes: tuple[str, ...] = ()) -> Verdict:
    """Judge every shipped variant.

    Raises:
        InputError: nothing to judge, or the policy names a finding that the task does not have.
    """
    if not evidence.shipped:
        raise InputError("there is no variant to judge; bench the bundle first")
    required = _required(policy, evidence.findings)
    found: dict[Key, Comparison] = {(c.variant, c.metric, c.finding): c for c in evidence.comparisons}
    adjusted = _adjusted_p([key for name in evidence.shipped for key in _keys(name, required)], found)
    verdicts = []
    for variant in evidence.shipped:
        checks: list[Check] = []
        for entry, key in zip(required, _keys(variant, required), strict=True):
            checks += _check_entry(entry, found.get(key), adjusted.get(key, 1.0), policy.alpha)
        checks += check_budget(policy.budget, variant, evidence.measurements)
        outcome = _worst(check.outcome for check in checks)
        verdicts.append(VariantVerdict(variant=variant, outcome=outcome, checks=tuple(checks)))
    return Verdict(
        outcome=_worst(verdict.outcome for verdict in verdicts),
        variants=tuple(verdicts),
        policy_sha256=policy_sha256,
        model_digest=evidence.model_digest,
        notes=notes,
    )


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


def _required(policy: Policy, findings: tuple[str, ...]) -> tuple[NonInferiority, ...]:
    """The policy's entries, each spelt out for every finding that it binds."""
    for entry in policy.non_inferiority:
        if entry.finding and entry.finding not in findings:
            known = ", ".join(filter(None, findings))
            raise InputError(f"the policy names finding {entry.finding!r}, which this task lacks; it has {known}")
    return tuple(
        msgspec.structs.replace(entry, finding=finding)
        for entry in policy.non_inferiority
        for finding in findings
        # Over all labels together only accuracy has a meaning.
        if policy.requirement(entry.metric, finding) is entry and (finding or entry.metric == "accuracy")
    )


def _keys(variant: str, required: tuple[NonInferiority, ...]) -> list[Key]:
    return [(variant, entry.metric, entry.finding) for entry in required]


def _adjusted_p(keys: Sequence[Key], found: Mapping[Key, Comparison]) -> dict[Key, float]:
    """Holm-adjusted p-values of all required comparisons that have one."""
    p_values = {key: found[key].p_worse for key in keys if key in found and not found[key].too_few}
    finite = {key: p for key, p in p_values.items() if p is not None and math.isfinite(p)}
    return dict(zip(finite, holm(tuple(finite.values())), strict=True))


def _check_entry(entry: NonInferiority, comparison: Comparison | None, p_worse: float, alpha: float) -> list[Check]:
    """The comparison's own check, then its floors'."""
    name = f"{entry.metric} of {entry.finding}" if entry.finding else f"{entry.metric} over all labels"
    floors = (("teacher", entry.teacher_floor), ("bundle", entry.bundle_floor))
    names = {whose: f"{name}, floor of the {whose}" for whose, floor in floors if floor is not None}
    obstacle = _obstacle(comparison, entry.margin, alpha)
    if comparison is None or obstacle:
        return [Check(name=each, outcome="inconclusive", reason=obstacle) for each in (name, *names.values())]
    values = {"teacher": comparison.teacher.estimate, "bundle": comparison.bundle.estimate}
    return [
        _check_margin(name, comparison.difference, entry.margin, p_worse <= alpha),
        *(_check_floor(names[whose], values[whose], floor) for whose, floor in floors if floor is not None),
    ]


def _obstacle(comparison: Comparison | None, margin: float, alpha: float) -> str:
    """Why a comparison cannot be judged; empty where it can."""
    if comparison is None:
        return "not evaluated, or undefined (the PPV of a model that calls nothing is)"
    if comparison.too_few:
        return f"too few cases: {comparison.too_few}"
    difference = comparison.difference
    values = (comparison.teacher.estimate, comparison.bundle.estimate, difference.estimate)
    if not all(map(math.isfinite, (*values, difference.low, difference.high))):
        return "the interval is not finite"
    if comparison.margin != margin or not math.isclose(difference.level, 1 - 2 * alpha):
        return "computed under another policy; compare again under this one"
    return ""


def _check_margin(name: str, difference: Interval, margin: float, worse: bool) -> Check:
    found = (
        f"difference {difference.estimate:+.4f}, {100 * difference.level:.4g}% interval {difference.low:+.4f} to "
        f"{difference.high:+.4f}, margin {margin:.4g}"
    )
    if difference.low > -margin:
        return Check(name=name, outcome="pass", reason=f"{found}: so large a drop is ruled out")
    if worse:
        return Check(name=name, outcome="fail", reason=f"{found}: significantly worse than the margin allows")
    reason = f"{found}: so large a drop is neither shown nor ruled out"
    return Check(name=name, outcome="inconclusive", reason=reason)


def _check_floor(name: str, estimate: float, floor: float) -> Check:
    outcome: Outcome = "pass" if estimate >= floor else "fail"
    return Check(name=name, outcome=outcome, reason=f"{estimate:.4f}, at least {floor:.4g} is required")


def _worst(outcomes: Iterable[Outcome]) -> Outcome:
    found = set(outcomes)
    order: tuple[Outcome, ...] = ("fail", "inconclusive")
    return next((outcome for outcome in order if outcome in found), "pass")
