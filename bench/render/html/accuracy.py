"""Every metric of every model against the teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from medfm_compress.bench.render.html.rendering import drawing
from medfm_compress.bench.render.model_names import name_with_origin
from medfm_compress.bench.render.plots.forest import AxisGroup, axis_group, forest_axis, forest_range, forest_row
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.evaluation import Comparison

KEPT_ROWS = 14
_TITLES: dict[AxisGroup, str] = {
    "shares": "Higher is better: hatching on the left",
    "errors": "Errors, lower is better: hatching on the right",
    "log_loss": "Log loss, lower is better, on a scale of its own",
    "distances": "Distances, lower is better, in px or mm",
    "counts": "Regions made up, lower is better",
}
Spans = Mapping[AxisGroup, tuple[float, float]]


class ComparisonRow(NamedTuple):
    """A comparison and its forest plot; none where no interval was computed."""

    comparison: Comparison
    plot: Markup | None


class Scale(NamedTuple):
    """Rows of one finding on one axis; ``finding`` is its heading on the first scale of several findings."""

    finding: str
    title: str
    axis: Markup
    rows: list[ComparisonRow]


class ComparisonTable(NamedTuple):
    """One model; ``keep`` where print must not tear the table."""

    name: str
    keep: bool
    scales: list[Scale]


class AccuracyView(NamedTuple):
    """Level of the intervals, and one table a model."""

    level: str
    tables: list[ComparisonTable]


def accuracy_view(report: Report) -> AccuracyView:
    """One table a model: teacher, bundle, difference, margin and the forest plot in its last column."""
    overall = [comparison for comparison in report.comparisons if not comparison.subgroup]
    # One scale for all models, so that their plots can be compared; log loss has its own, being without an upper end.
    spans = {group: forest_range(_on_axis(overall, group)) for group in _TITLES if _on_axis(overall, group)}
    tables = []
    for name in (*report.variants, *report.external_models):
        compared = [comparison for comparison in overall if comparison.variant == name]
        if compared:
            scales = _scales(compared, spans)
            tables.append(ComparisonTable(name_with_origin(report, name), len(compared) <= KEPT_ROWS, scales))
    return AccuracyView(_level_name(overall), tables)


def _on_axis(comparisons: Sequence[Comparison], group: AxisGroup) -> list[Comparison]:
    return [comparison for comparison in comparisons if axis_group(comparison.metric) == group]


def _level_name(comparisons: Sequence[Comparison]) -> str:
    levels = {comparison.difference.level for comparison in comparisons}
    return f"{100 * levels.pop():g}%" if len(levels) == 1 else "two-sided"


def _scales(comparisons: Sequence[Comparison], spans: Spans) -> list[Scale]:
    scales = []
    findings = list(dict.fromkeys(comparison.finding for comparison in comparisons))
    for finding in findings:
        heading = (finding or "All labels together") if len(findings) > 1 else ""
        for group, title in _TITLES.items():
            compared = _on_axis([entry for entry in comparisons if entry.finding == finding], group)
            if compared:
                axis = drawing(forest_axis(spans[group], errors=group != "shares"))
                scales.append(Scale(heading, title, axis, [_row(comparison, spans[group]) for comparison in compared]))
                heading = ""
    return scales


def _row(comparison: Comparison, span: tuple[float, float]) -> ComparisonRow:
    return ComparisonRow(comparison, None if comparison.too_few else drawing(forest_row(comparison, span)))
