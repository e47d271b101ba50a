"""The card of a variant at the top of the report: what the policy requires of it, what was found, what follows."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from medfm_compress.bench.gate.budget import Figure, Limit, budget_figures
from medfm_compress.bench.gate.decision import Decision, required_comparisons
from medfm_compress.bench.gate.explanation_checks import CHECK_NAMES, median_agreement, values_of
from medfm_compress.bench.gate.gate import recorded_evidence
from medfm_compress.bench.gate.margin_checks import Key, describe_difference
from medfm_compress.bench.render.format import METRIC_NAMES, bounds, factor, milliseconds, number, percent, signed
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import LOWER_IS_BETTER
from medfm_compress.bench.types.verdict import Check, VariantVerdict, Verdict
from medfm_compress.runtime.bundle.manifest import Outcome

MOST_ROWS = 24
_FEWEST_ROWS = 6
_OUTCOMES: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")


class Value(NamedTuple):
    """A figure as it is written, and its interval or what else stands under it."""

    text: str = "–"
    sub: str = ""


class Row(NamedTuple):
    """One requirement: its name, what teacher and variant reach, their difference, and what is required.

    ``is_bare`` where there are no figures to show, so that the reason stands in their place; ``repeated`` is how the
    reason begins where it says the figures once more.
    """

    name: str
    teacher: Value = Value()
    bundle: Value = Value()
    difference: Value = Value()
    required: str = ""
    is_bare: bool = False
    repeated: str = ""


class Requirement(NamedTuple):
    """A row, what follows from it, and why; ``reason`` is empty where the figures or the next row say it."""

    row: Row
    outcome: Outcome
    reason: str


class Card(NamedTuple):
    """The requirements of one variant, those that do not hold first.

    Attributes:
        variant: whose.
        outcome: of the variant.
        requirements: at most `MOST_ROWS` in all cards together, but for the fewest of each.
        counts: outcome → how many requirements have it, none left out.
        hidden: how many requirements are not among ``requirements``.
    """

    variant: str
    outcome: Outcome
    requirements: list[Requirement]
    counts: dict[Outcome, int]
    hidden: int


Rows = Mapping[str, Row]


def cards(report: Report, verdict: Verdict) -> list[Card]:
    """One card a judged variant, in the verdict's order; raises InputError like `gate.gather`."""
    decision = Decision(verdict, recorded_evidence(report), report.policy, report)
    most = max(_FEWEST_ROWS, MOST_ROWS // max(len(verdict.variants), 1))
    return [_card(decision, judged, most) for judged in verdict.variants]


def _card(decision: Decision, judged: VariantVerdict, most: int) -> Card:
    rows = _rows(decision, judged.variant)
    ordered = sorted(judged.checks, key=lambda check: _OUTCOMES.index(check.outcome))
    requirements = [_requirement(check, rows) for check in ordered[:most]]
    following = [entry.reason for entry in requirements[1:]] + [""]
    return Card(
        variant=judged.variant,
        outcome=judged.outcome,
        requirements=[
            entry._replace(reason="") if entry.reason == after else entry
            for entry, after in zip(requirements, following, strict=True)
        ],
        counts={
            outcome: count
            for outcome in _OUTCOMES
            if (count := sum(check.outcome == outcome for check in judged.checks))
        },
        hidden=len(ordered) - len(requirements),
    )


def _requirement(check: Check, rows: Rows) -> Requirement:
    row = rows.get(check.name, Row(_title(check.name), is_bare=True))
    if check.outcome == "pass" and not row.is_bare:
        return Requirement(row, check.outcome, "")
    reason = check.reason.removeprefix(row.repeated)
    return Requirement(row, check.outcome, reason[:1].upper() + reason[1:])


def _title(check: str) -> str:
    """A check's name as a row's: a metric by its written name, else a capital first."""
    metric = re.match(r"\w+", check)
    name = METRIC_NAMES.get(metric[0]) if metric else None  # type: ignore[call-overload]
    return name + check.removeprefix(metric[0]) if metric and name else check[:1].upper() + check[1:]


def _rows(decision: Decision, variant: str) -> dict[str, Row]:
    """Name of a check of ``variant`` → its row."""
    return {
        **_comparison_rows(decision, variant),
        **_fidelity_rows(decision, variant),
        **_explanation_rows(decision, variant),
        **_cost_rows(decision, variant),
    }


def _comparison_rows(decision: Decision, variant: str) -> dict[str, Row]:
    compared: dict[Key, Comparison] = {
        (c.variant, c.metric, c.finding, c.subgroup): c for c in decision.evidence.comparisons
    }
    rows = {}
    for required in required_comparisons(decision):
        comparison, entry = compared.get(required.key(variant)), required.entry
        if comparison is None:
            continue
        name = METRIC_NAMES[entry.metric] + required.name.removeprefix(entry.metric)
        rows[required.name] = _margin_row(name, comparison, entry.margin)
        bound, at_least = ("ceiling", "at most") if entry.metric in LOWER_IS_BETTER else ("floor", "at least")
        teacher, bundle = _own(comparison.teacher, comparison), _own(comparison.bundle, comparison)
        if entry.teacher_floor is not None:
            floor = f", {bound} of the teacher"
            required_text = f"{at_least} {entry.teacher_floor:g}"
            rows[required.name + floor] = Row(name + floor, teacher=teacher, required=required_text)
        if entry.bundle_floor is not None:
            floor = f", {bound} of the bundle"
            required_text = f"{at_least} {entry.bundle_floor:g}"
            rows[required.name + floor] = Row(name + floor, bundle=bundle, required=required_text)
    return rows


def _margin_row(name: str, comparison: Comparison, margin: float) -> Row:
    difference = comparison.difference
    loss = "rise" if comparison.metric in LOWER_IS_BETTER else "drop"
    return Row(
        name,
        _own(comparison.teacher, comparison),
        _own(comparison.bundle, comparison),
        Value(signed(difference.estimate), "no interval" if comparison.too_few else bounds(difference, sign=True)),
        f"{loss} below {margin:g}",
        repeated=f"{describe_difference(comparison, margin)}: ",
    )


def _own(interval: Interval, comparison: Comparison) -> Value:
    return Value(number(interval.estimate), "no interval" if comparison.too_few else bounds(interval))


def _fidelity_rows(decision: Decision, variant: str) -> dict[str, Row]:
    near = next((entry for entry in decision.evidence.fidelity if entry.variant == variant), None)
    limits, rows = decision.policy.fidelity, {}
    if near is not None and limits.max_relative_logit_error is not None:
        rows["relative logit error"] = Row(
            "Relative logit error",
            bundle=Value(number(near.relative_logit_error)),
            required=f"at most {limits.max_relative_logit_error:g}",
        )
    if near is not None and limits.min_agreement is not None:
        agreement = Value(
            percent(near.agreement.estimate), f"{percent(near.agreement.low)} to {percent(near.agreement.high)}"
        )
        rows["agreement of decisions"] = Row(
            "Decisions as the teacher’s, share of patients",
            bundle=agreement,
            required=f"at least {100 * limits.min_agreement:g}%",
        )
    return rows


def _explanation_rows(decision: Decision, variant: str) -> dict[str, Row]:
    evidence, policy, rows = decision.evidence, decision.policy, {}
    for agreement in evidence.explanations:
        for limit, name in CHECK_NAMES.items():
            least = getattr(policy.explanations, limit)
            if agreement.variant != variant or least is None or max(agreement.cases) >= len(evidence.clusters):
                continue
            found = median_agreement(agreement, values_of(agreement, limit), evidence.clusters, policy.alpha)
            if found is not None:
                value = Value(number(found.estimate), bounds(found))
                words = f"{name[:1].upper()}{name[1:]} with the teacher’s, median case"
                rows[name] = Row(words, bundle=value, required=f"at least {least:g}")
    return rows


def _cost_rows(decision: Decision, variant: str) -> dict[str, Row]:
    evidence, budget = decision.evidence, decision.policy.budget
    found = budget_figures(budget, variant, evidence.measurements, evidence.slowdowns)
    teachers = _by_name(budget_figures(budget, TEACHER, evidence.measurements))
    return {limit.name: _cost_row(limit, figure, teachers[limit.name]) for limit, figure in found}


def _by_name(figures: list[tuple[Limit, Figure]]) -> dict[str, Figure]:
    return {limit.name: figure for limit, figure in figures}


def _cost_row(limit: Limit, own: Figure, teacher: Figure) -> Row:
    """Of a ratio to the teacher, which has no second figure beside it, or of a cost that both have."""
    bound = "at least" if limit.at_least else "at most"
    row = Row(
        limit.name[:1].upper() + limit.name[1:],
        bundle=_cost(limit, own),
        required=f"{bound} {limit.value:g}{limit.unit}",
        is_bare=not _is_known(own),
    )
    if limit.unit == "×" or not _is_known(own) or not _is_known(teacher):
        return row
    change = own.estimate - teacher.estimate
    sign = "+" if change > 0 else "−" if change < 0 else ""
    return row._replace(
        teacher=_cost(limit, teacher), difference=Value(f"{sign}{milliseconds(abs(change))}{limit.unit}")
    )


def _cost(limit: Limit, figure: Figure) -> Value:
    if not _is_known(figure):
        return Value()
    low, value, high = (
        factor(end) if limit.unit == "×" else milliseconds(end) for end in (figure.low, figure.estimate, figure.high)
    )
    text = value if limit.unit == "×" else f"{value}{limit.unit}"
    if figure.low == figure.high:
        return Value(text)
    return Value(text, f"above {low}" if math.isinf(figure.high) else f"{low} to {high}")


def _is_known(figure: Figure) -> bool:
    return not figure.missing and math.isfinite(figure.estimate) and figure.estimate > 0
