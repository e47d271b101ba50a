"""Forest plots of what the policy requires: every finding, then every group of patients, against the margin.

The smallest lower end over the groups bounds the difference of the worst group from below, one-sided at the level of
each interval, whatever group that is: if θ_w is the smallest true difference, then

    P(min_g L_g ≤ θ_w) ≥ P(L_w ≤ θ_w) ≥ 1 − α
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from medfm_compress.bench.render.format import METRIC_NAMES, margin_text, signed
from medfm_compress.bench.render.html.accuracy import KEPT_ROWS
from medfm_compress.bench.render.html.rendering import drawing
from medfm_compress.bench.render.plots.forest import forest_axis, forest_range, forest_row
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.metric import ALL_METRICS, LOWER_IS_BETTER, Metric
from medfm_compress.bench.types.policy import Policy


class GroupRow(NamedTuple):
    """One comparison; ``heading`` is empty where the row above has the same."""

    heading: str
    name: str
    comparison: Comparison
    plot: Markup | None


class GroupPlot(NamedTuple):
    """One metric of one variant: rows, what bounds the worst group, and groups of which nothing is known."""

    metric: Metric
    axis: Markup
    rows: list[GroupRow]
    keep: bool
    worst: str
    unjudged: list[str]


class GroupsView(NamedTuple):
    """Whether any groups were compared, and variant → its plots."""

    compared: bool
    plots: dict[str, list[GroupPlot]]


def groups_view(report: Report) -> GroupsView:
    """One plot a metric that is required or compared by group, for each variant."""
    plots = {}
    for variant in report.variants:
        compared = [comparison for comparison in report.comparisons if comparison.variant == variant]
        by_metric = ([entry for entry in compared if entry.metric == metric] for metric in _metrics(compared))
        plots[variant] = [_plot(report.policy, comparisons) for comparisons in by_metric if comparisons]
    grouped = any(comparison.subgroup for comparison in report.comparisons)
    return GroupsView(grouped, {variant: drawn for variant, drawn in plots.items() if drawn})


def worst_group(compared: Sequence[Comparison]) -> Comparison | None:
    """The group whose interval leaves the largest loss possible; None where no group has an interval."""
    usable = [comparison for comparison in compared if comparison.subgroup and has_interval(comparison)]
    return max(usable, key=lambda comparison: comparison.largest_loss, default=None)


def unjudged_groups(compared: Sequence[Comparison]) -> list[str]:
    """Groups without an interval, by name: nothing is known of them."""
    small = (comparison.subgroup for comparison in compared if comparison.subgroup and not has_interval(comparison))
    return list(dict.fromkeys(small))


def has_interval(comparison: Comparison) -> bool:
    """Whether an interval could be computed."""
    ends = (comparison.largest_loss, comparison.difference.estimate)
    return not comparison.too_few and all(map(math.isfinite, ends))


def column_of(policy: Policy, subgroup: str) -> str:
    """The policy's column that ``subgroup`` (``sex = F``, ``50 <= age < 70``) is a group of; empty where it is none."""
    for rule in sorted(policy.subgroups, key=lambda rule: (-len(rule.parts), -len(rule.column))):
        if all(_is_named(part, subgroup) for part in rule.parts):
            return rule.column
    return ""


def _is_named(column: str, subgroup: str) -> bool:
    names = (subgroup, *subgroup.split(", "))
    starts = tuple(f"{column} {sign} " for sign in ("=", "<", ">="))
    return any(name.startswith(starts) or f" <= {column} < " in name for name in names)


def _metrics(compared: Sequence[Comparison]) -> list[Metric]:
    """Those that are required or compared by group; else AUROC, of masks Dice."""
    shown = [entry.metric for entry in compared if entry.margin is not None or entry.subgroup]
    usual: Metric = "dice" if any(entry.metric == "dice" for entry in compared) else "auroc"
    return sorted(dict.fromkeys(shown or [usual]), key=ALL_METRICS.index)


def _plot(policy: Policy, compared: Sequence[Comparison]) -> GroupPlot:
    metric, span = compared[0].metric, forest_range(compared)
    rows = _rows(policy, compared, span)
    lines = len(rows) + sum(bool(row.heading) for row in rows)
    axis = drawing(forest_axis(span, errors=metric in LOWER_IS_BETTER))
    return GroupPlot(metric, axis, rows, lines <= KEPT_ROWS, _worst_sentence(compared), unjudged_groups(compared))


def _rows(policy: Policy, compared: Sequence[Comparison], span: tuple[float, float]) -> list[GroupRow]:
    margins = {comparison.finding: comparison.margin for comparison in compared if not comparison.subgroup}
    rows, last = [], ""
    for comparison in _ordered(policy, compared):
        heading = _heading(policy, comparison, several=_are_several(compared)) if comparison.subgroup else ""
        name = comparison.subgroup or (comparison.finding or "all labels together") + ", all cases"
        plot = None
        if has_interval(comparison):
            plot = drawing(forest_row(comparison, span, reference=margins.get(comparison.finding)))
        rows.append(GroupRow("" if heading == last else heading, name, comparison, plot))
        last = heading or last
    return rows


def _heading(policy: Policy, comparison: Comparison, *, several: bool) -> str:
    finding = f", {comparison.finding or 'all labels together'}" if several else ""
    return f"By {column_of(policy, comparison.subgroup) or 'group'}{finding}"


def _are_several(compared: Sequence[Comparison]) -> bool:
    return len({comparison.finding for comparison in compared}) > 1


def _ordered(policy: Policy, compared: Sequence[Comparison]) -> list[Comparison]:
    """All cases of every finding first, then column by column and in each finding by finding."""
    columns = ["", *(rule.column for rule in policy.subgroups)]
    findings = list(dict.fromkeys(comparison.finding for comparison in compared))

    def place(comparison: Comparison) -> tuple[bool, int, int]:
        column = columns.index(column_of(policy, comparison.subgroup))
        return bool(comparison.subgroup), column, findings.index(comparison.finding)

    return sorted(compared, key=place)


def _worst_sentence(compared: Sequence[Comparison]) -> str:
    """What bounds the loss in the worst group; empty where no group has an interval."""
    worst = worst_group(compared)
    if worst is None:
        return ""
    covered = sum(bool(comparison.subgroup) and has_interval(comparison) for comparison in compared)
    several = _are_several(compared)
    is_error = worst.metric in LOWER_IS_BETTER
    bound = f"at most {signed(worst.difference.high)}" if is_error else f"at least {signed(worst.difference.low)}"
    margin = f"; the margin is {margin_text(worst.metric, worst.margin)}" if worst.margin is not None else ""
    of_finding = f" of {worst.finding}" if worst.finding and several else ""
    return (
        f"{METRIC_NAMES[worst.metric]}{of_finding}, {worst.subgroup}: whichever of the {covered} groups"
        f"{' (by finding)' if several else ''} with an interval is truly worst, its difference is {bound} with "
        f"{100 * (1 + worst.difference.level) / 2:g}% confidence{margin}."
    )
