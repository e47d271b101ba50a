"""The models of a report as points of latency and AUROC, of a segmentation of latency and Dice."""

from __future__ import annotations

from typing import NamedTuple

from medfm_compress.bench.evaluate.kinds import kind_of
from medfm_compress.bench.measure.percentile_bounds import percentile_bounds
from medfm_compress.bench.render.model_names import model_name
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement


class ParetoPoint(NamedTuple):
    """One model in the plane of latency and AUROC.

    Attributes:
        name: as people read it.
        latency_ms: median of the session; its interval may reach to infinity.
        merit: AUROC or Dice, with its interval.
        series: number of its colour and mark.
        hollow: whether it has no evaluation of its own and is given the teacher's AUROC.
    """

    name: str
    latency_ms: Interval
    merit: Interval
    series: int
    hollow: bool


def pareto_points(report: Report, finding: str) -> tuple[ParetoPoint, ...]:
    """Everything measured that has an AUROC of ``finding``: teacher, variants, external models, other engines.

    What was measured without an evaluation and is not the teacher in another engine has no place in the plane.
    """
    areas = auroc_of(report, finding)
    names = [table.name for table in report.evaluations]
    points = []
    for measurement in report.measurements:
        own = measurement.name in areas
        exact = measurement.target.split(":")[2:3] == ["fp32"]  # in another precision it is not the teacher's AUROC
        if not own and not (is_teacher_elsewhere(report, measurement) and exact and TEACHER in areas):
            continue
        points.append(
            ParetoPoint(
                name=model_name(report, measurement.name),
                latency_ms=median_interval(measurement),
                merit=areas[measurement.name if own else TEACHER],
                series=names.index(measurement.name) if own else 0,
                hollow=not own,
            )
        )
    return tuple(points)


def auroc_of(report: Report, finding: str) -> dict[str, Interval]:
    """Name of each evaluated model → its AUROC (Dice) of ``finding`` on all cases, where an interval was computed."""
    metric, areas = kind_of(report.task).headline, dict[str, Interval]()
    for compared in report.comparisons:
        if compared.metric == metric and compared.finding == finding and not compared.subgroup and not compared.too_few:
            areas.setdefault(TEACHER, compared.teacher)
            areas[compared.variant] = compared.bundle
    return areas


def is_teacher_elsewhere(report: Report, measurement: Measurement) -> bool:
    """Whether this is the teacher in another engine, whose scores were held to the teacher's when it was exported."""
    evaluated = {table.name for table in report.evaluations}
    return measurement.name not in evaluated and measurement.name.startswith(f"{TEACHER} in ")


def median_interval(measurement: Measurement) -> Interval:
    """Median session latency in ms, with its distribution-free interval."""
    return percentile_bounds(measurement.session_ms, 0.5)
