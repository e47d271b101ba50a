"""The section on speed against accuracy: who is beaten by nobody."""

from __future__ import annotations

from typing import NamedTuple

from markupsafe import Markup

from medfm_compress.bench.evaluate.kinds import kind_of
from medfm_compress.bench.render.format import METRIC_NAMES
from medfm_compress.bench.render.html.rendering import drawing
from medfm_compress.bench.render.pareto_points import is_teacher_elsewhere, pareto_points
from medfm_compress.bench.render.plots.latency import pareto_plot
from medfm_compress.bench.report import Report
from medfm_compress.bench.stats.pareto_front import front

_MOST_PLOTS = 6


class TradeoffView(NamedTuple):
    """Heading (empty for a single finding), plot and unbeaten models of each finding, and what is not drawn.

    Attributes:
        merit: what stands for accuracy: AUROC, of a segmentation Dice.
        plots: of the findings on which at least two models can be compared.
        hollow: models that were timed and are given the teacher's AUROC.
        not_placed: models that were timed and have no AUROC.
        hidden: number of findings that are not drawn for want of room.
    """

    merit: str
    plots: list[tuple[str, Markup, list[str]]]
    hollow: list[str]
    not_placed: list[str]
    hidden: int


def tradeoff_view(report: Report) -> TradeoffView:
    """One drawing a finding: AUROC over median latency."""
    findings, plots = report.teacher.findings, []
    merit = METRIC_NAMES[kind_of(report.task).headline]
    for finding in findings[:_MOST_PLOTS]:
        points = pareto_points(report, finding)
        if len(points) < 2:
            continue
        best = front([(point.latency_ms.estimate, point.merit.estimate) for point in points])
        unbeaten = [points[place].name for place in best]
        title = f"{merit} of {finding} over median latency; unbeaten: {', '.join(unbeaten)}"
        plots.append(
            (finding if len(findings) > 1 else "", drawing(pareto_plot(points, title=title, merit=merit)), unbeaten)
        )
    evaluated = {table.name for table in report.evaluations}
    others = [measurement for measurement in report.measurements if measurement.name not in evaluated]
    hollow = [measurement.name for measurement in others if is_teacher_elsewhere(report, measurement)]
    rest = [measurement.name for measurement in others if measurement.name not in hollow]
    return TradeoffView(merit, plots, hollow, rest, max(len(findings) - _MOST_PLOTS, 0))
