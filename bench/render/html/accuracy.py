"""Every requirement with its outcome, and every metric of every model against the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medfm_compress.bench.render.format import METRIC_NAMES, bounds, esc, margin_text, number, signed
from medfm_compress.bench.render.html.verdict import mark
from medfm_compress.bench.render.plots.forest import axis_group, forest_axis, forest_range, forest_row
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.evaluation import Comparison
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.verdict import Verdict

_KEPT_ROWS = 14
_GROUP_NAMES = {
    "shares": "Higher is better: hatching on the left",
    "errors": "Errors, lower is better: hatching on the right",
    "log_loss": "Log loss, lower is better, on a scale of its own",
}
Spans = Mapping[str, tuple[float, float]]


def checks_section(_: Report, verdict: Verdict) -> str:
    """Every check of every variant, as the gate stated it."""
    rows = []
    for variant in verdict.variants:
        rows.append(
            f'<tr class="group"><th class="text">{esc(variant.variant)}</th><th '
            f'class="text">{mark(variant.outcome)}</th>'
            "<th></th></tr>"
        )
        rows += [
            f'<tr><th class="text">{esc(check.name)}</th><td class="text">{mark(check.outcome)}</td>'
            f'<td class="text">{esc(check.reason)}</td></tr>'
            for check in variant.checks
        ]
    head = '<tr><th class="text">Requirement</th><th class="text">Outcome</th><th class="text">Found</th></tr>'
    return f'<div class="wide"><table class="checks"><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def comparison_tables(report: Report, _: Verdict) -> str:
    """One table a model: teacher, bundle, difference, margin and the forest plot in its last column."""
    compared = [found for found in report.comparisons if not found.subgroup]
    level = _level_name(compared)
    lead = (
        f'<p class="lead">Every metric on the same {len(report.teacher.clusters):,} cases; the difference is '
        f"bundle minus teacher, paired case by case and clustered by patient, with {level} intervals.</p>"
    )
    # One scale for all models, so that their plots can be compared; log loss has its own, being without an upper end.
    spans = {
        group: forest_range([found for found in compared if axis_group(found.metric) == group])
        for group in {axis_group(found.metric) for found in compared}
    }
    tables = []
    for name in (*report.variants, *report.external_models):
        mine = [found for found in compared if found.variant == name]
        if mine:
            other = " (not in the bundle)" if name in report.external_models else ""
            tables.append(f"<div{_keep(len(mine))}><h3>{esc(name)}{other}</h3>{_comparison_table(mine, spans)}</div>")
    note = (
        '<p class="note">Shaded rows are required by the policy. The dot is the difference, the line its interval; '
        "hatching begins where the bundle would be worse than the margin allows. Non-inferior means that the whole "
        "interval lies outside the hatching.</p>"
    )
    return lead + "".join(tables) + note


def value_cell(interval: Interval, too_few: str, *, sign: bool = False) -> str:
    """An estimate with its interval under it."""
    value = signed(interval.estimate) if sign else number(interval.estimate)
    return f'<td>{value}<span class="sub">{"no interval" if too_few else bounds(interval, sign=sign)}</span></td>'


def margin_cell(found: Comparison) -> str:
    """The margin, and whether the interval excludes it."""
    if found.margin is None:
        return '<td><span class="sub">not required</span></td>'
    within = found.largest_loss < found.margin and not found.too_few
    return (
        f'<td>{margin_text(found.metric, found.margin)}<span class="sub">{"excluded" if within else "not excluded"}'
        "</span></td>"
    )


def _level_name(comparisons: Sequence[Comparison]) -> str:
    levels = {found.difference.level for found in comparisons}
    return f"{100 * levels.pop():g}%" if len(levels) == 1 else "two-sided"


def _keep(rows: int) -> str:
    """Class of a block that print must not tear, if it is short enough for that."""
    return ' class="keep"' if rows <= _KEPT_ROWS else ""


def _comparison_table(comparisons: Sequence[Comparison], spans: Spans) -> str:
    findings = list(dict.fromkeys(found.finding for found in comparisons))
    comparisons = sorted(
        comparisons,
        key=lambda found: (findings.index(found.finding), list(_GROUP_NAMES).index(axis_group(found.metric))),
    )
    heads = "<tr><th>Metric</th><th>Teacher</th><th>This model</th><th>Difference</th><th>Margin</th><th></th></tr>"
    several, rows = len({found.finding for found in comparisons}) > 1, []
    place: tuple[str, str] | None = None
    for found in comparisons:
        group = axis_group(found.metric)
        if place is None or place[0] != found.finding:
            if several:
                name = esc(found.finding or "All labels together")
                rows.append(f'<tr class="group"><th colspan="6">{name}</th></tr>')
            place = None
        if place is None or place[1] != group:
            rows.append(
                f'<tr class="scale"><th colspan="5">{_GROUP_NAMES[group]}</th><td class="plot">'
                f"{forest_axis(spans[group], errors=group != 'shares')}</td></tr>"
            )
        place = (found.finding, group)
        rows.append(_comparison_row(found, spans[group]))
    return f'<div class="wide"><table><thead>{heads}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _comparison_row(found: Comparison, span: tuple[float, float]) -> str:
    values = value_cell(found.teacher, found.too_few) + value_cell(found.bundle, found.too_few)
    plot = f'<span class="sub wrap">{esc(found.too_few)}</span>' if found.too_few else forest_row(found, span)
    return (
        f"<tr{'' if found.margin is None else ' class=required'}><th>{METRIC_NAMES[found.metric]}</th>{values}"
        f"{value_cell(found.difference, found.too_few, sign=True)}{margin_cell(found)}"
        f'<td class="plot">{plot}</td></tr>'
    )
