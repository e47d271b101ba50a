"""Forest plots of what the policy requires: every finding, then every group of patients, against the margin.

The smallest lower end over the groups bounds the difference of the worst group from below, one-sided at the level of
each interval, whatever group that is: if θ_w is the smallest true difference, then

    P(min_g L_g ≤ θ_w) ≥ P(L_w ≤ θ_w) ≥ 1 − α
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from medfm_compress.bench.render.format import METRIC_NAMES, counted, esc, margin_text, signed
from medfm_compress.bench.render.html.accuracy import margin_cell, value_cell
from medfm_compress.bench.render.plots.forest import forest_axis, forest_range, forest_row
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, METRICS, Metric
from medfm_compress.bench.types.policy import Policy
from medfm_compress.bench.types.verdict import Verdict

_MOST_NAMED = 12
_KEPT_ROWS = 14


def groups_section(report: Report, _: Verdict) -> str:
    """One plot a metric that is required or compared by group, for each variant."""
    parts = [_lead(report)]
    for variant in report.variants:
        mine = [found for found in report.comparisons if found.variant == variant]
        plots = [_plot(report.policy, [found for found in mine if found.metric == metric]) for metric in _metrics(mine)]
        drawn = "".join(plots)
        if drawn:
            parts.append(f"<h3>{esc(variant)}</h3>{drawn}")
    note = (
        '<p class="note">The dot is the difference, bundle minus teacher, the line its interval; hatching begins '
        "where the "
        "bundle would be worse than the margin allows. A dotted line repeats the margin of all cases where a group "
        "has none "
        "of its own. Groups overlap (a patient has an age and a sex), so their rows are not independent.</p>"
    )
    return "".join(parts) + note


def worst_group(compared: Sequence[Comparison]) -> Comparison | None:
    """The group whose interval leaves the largest loss possible; None where no group has an interval."""
    usable = [found for found in compared if found.subgroup and has_interval(found)]
    return max(usable, key=lambda found: found.largest_loss, default=None)


def has_interval(found: Comparison) -> bool:
    """Whether an interval could be computed."""
    return not found.too_few and math.isfinite(found.largest_loss) and math.isfinite(found.difference.estimate)


def column_of(policy: Policy, subgroup: str) -> str:
    """The policy's column that ``subgroup`` (``sex = F``, ``50 <= age < 70``) is a group of; empty where it is none."""
    for rule in sorted(policy.subgroups, key=lambda rule: -len(rule.column)):
        starts = tuple(f"{rule.column} {sign} " for sign in ("=", "<", ">="))
        if subgroup.startswith(starts) or f" <= {rule.column} < " in subgroup:
            return rule.column
    return ""


def _lead(report: Report) -> str:
    if any(found.subgroup for found in report.comparisons):
        return (
            '<p class="lead">A mean over all cases can hide a loss in one group. Every finding and every group '
            "that the "
            "policy declares, on one scale a metric.</p>"
        )
    return (
        '<p class="caution"><b>No groups of patients were compared.</b> The policy declares none, so a loss in one '
        "group "
        "(an age, a sex, a site, a device) may hide in these figures.</p>"
    )


def _metrics(compared: Sequence[Comparison]) -> list[Metric]:
    """Those that are required or compared by group; else AUROC."""
    shown = [found.metric for found in compared if found.margin is not None or found.subgroup]
    return sorted(dict.fromkeys(shown or ["auroc"]), key=METRICS.index)


def _plot(policy: Policy, compared: Sequence[Comparison]) -> str:
    if not compared:
        return ""
    metric, span = compared[0].metric, forest_range(compared)
    head = (
        f'<tr><th class="text">{METRIC_NAMES[metric]}</th><th>Patients<span class="sub">with it</span></th>'
        "<th>Teacher</th>"
        f"<th>Bundle</th><th>Difference</th><th>Margin</th>"
        f'<th class="plot">{forest_axis(span, errors=metric in LOWER_IS_BETTER)}</th></tr>'
    )
    overall = {found.finding: found.margin for found in compared if not found.subgroup}
    rows, heading, several = [], ("", ""), len({found.finding for found in compared}) > 1
    for found in _ordered(policy, compared):
        column = column_of(policy, found.subgroup) if found.subgroup else ""
        here = (column, found.finding if found.subgroup else "")
        if found.subgroup and here != heading:
            finding = f", {esc(found.finding or 'all labels together')}" if several else ""
            rows.append(f'<tr class="group"><th colspan="7">By {esc(column or "group")}{finding}</th></tr>')
            heading = here
        rows.append(_row(found, span, overall.get(found.finding)))
    table = f'<table class="groups"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table>'
    return (
        f'<div class="wide apart{" keep" if len(rows) <= _KEPT_ROWS else ""}">{table}</div>'
        + _worst(metric, compared)
        + _unjudged(compared)
    )


def _ordered(policy: Policy, compared: Sequence[Comparison]) -> list[Comparison]:
    """All cases of every finding first, then column by column and in each finding by finding."""
    columns = ["", *(rule.column for rule in policy.subgroups)]
    findings = list(dict.fromkeys(found.finding for found in compared))

    def place(found: Comparison) -> tuple[bool, int, int]:
        return bool(found.subgroup), columns.index(column_of(policy, found.subgroup)), findings.index(found.finding)

    return sorted(compared, key=place)


def _row(found: Comparison, span: tuple[float, float], reference: float | None) -> str:
    name = found.subgroup or (found.finding or "all labels together") + ", all cases"
    plot = f'<span class="sub wrap">too few: {esc(found.too_few)}</span>'
    if has_interval(found):
        plot = forest_row(found, span, reference=reference)
    return (
        f"<tr{' class=required' if found.margin is not None else ''}><th>{esc(name)}</th>"
        f'<td>{found.patients:,}<span class="sub">{found.patients_with:,}</span></td>'
        f"{value_cell(found.teacher, found.too_few)}{value_cell(found.bundle, found.too_few)}"
        f'{value_cell(found.difference, found.too_few, sign=True)}{margin_cell(found)}<td class="plot">{plot}</td></tr>'
    )


def _worst(metric: Metric, compared: Sequence[Comparison]) -> str:
    worst = worst_group(compared)
    if worst is None:
        return ""
    covered = sum(bool(found.subgroup) and has_interval(found) for found in compared)
    several = len({found.finding for found in compared}) > 1
    confidence = f"{100 * (1 + worst.difference.level) / 2:g}%"
    each = " (by finding)" if several else ""
    errors = metric in LOWER_IS_BETTER
    bound = worst.difference.high if errors else worst.difference.low
    margin = f"; the margin is {margin_text(metric, worst.margin)}" if worst.margin is not None else ""
    of_finding = f" of {worst.finding}" if worst.finding and several else ""
    sentence = (
        f"{METRIC_NAMES[metric]}{of_finding}, {worst.subgroup}: whichever of the {covered} groups{each} with an "
        f"interval is truly worst, its difference is {'at most' if errors else 'at least'} {signed(bound)} with "
        f"{confidence} "
        f"confidence{margin}."
    )
    return f'<p class="worst"><b>Worst group.</b> {esc(sentence)}</p>'


def _unjudged(compared: Sequence[Comparison]) -> str:
    """Groups without an interval, by name: nothing is known of them."""
    names = list(dict.fromkeys(found.subgroup for found in compared if found.subgroup and not has_interval(found)))
    if not names:
        return ""
    shown = ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )
    return (
        f'<p class="caution"><b>{counted(len(names), "group")} too small to judge:</b> {esc(shown)}. Nothing is '
        "known of the "
        "difference there, and the statement on the worst group does not cover it.</p>"
    )
