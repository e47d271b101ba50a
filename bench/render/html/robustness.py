"""What teacher and bundle lose under the policy's perturbations, one forest plot a metric and variant."""

from __future__ import annotations

import math
from typing import NamedTuple

from markupsafe import Markup

from medfm_compress.bench.render.html.rendering import drawing
from medfm_compress.bench.render.plots.forest import forest_axis, forest_range, forest_row
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, Metric
from medfm_compress.bench.types.robustness import DropComparison


class DropRow(NamedTuple):
    """One comparison; ``heading`` names the finding where it differs from the row above."""

    heading: str
    comparison: DropComparison
    plot: Markup | None


class DropPlot(NamedTuple):
    """One metric of one variant."""

    metric: Metric
    axis: Markup
    rows: list[DropRow]


def robustness_view(report: Report) -> dict[str, list[DropPlot]]:
    """Variant → its plots; empty where the policy names no perturbation."""
    plots = {}
    for variant in report.variants:
        mine = [comparison for comparison in report.drops if comparison.variant == variant]
        metrics = list(dict.fromkeys(comparison.metric for comparison in mine))
        plots[variant] = [_plot([c for c in mine if c.metric == metric]) for metric in metrics]
    return {variant: drawn for variant, drawn in plots.items() if drawn}


def _plot(comparisons: list[DropComparison]) -> DropPlot:
    ordered = sorted(comparisons, key=lambda comparison: comparison.finding)
    span, metric = forest_range(ordered), ordered[0].metric
    rows, last = [], ""
    for comparison in ordered:
        drawn = math.isfinite(comparison.largest_loss) and not comparison.too_few
        plot = drawing(forest_row(comparison, span)) if drawn else None
        rows.append(DropRow("" if comparison.finding == last else comparison.finding, comparison, plot))
        last = comparison.finding
    return DropPlot(metric, drawing(forest_axis(span, errors=metric in LOWER_IS_BETTER)), rows)
