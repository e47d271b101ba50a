"""The section on what the models cost: latency call by call and stage by stage, memory, size, start-up, energy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from medfm_compress.bench.measure.percentile_bounds import samples_for_upper_bound
from medfm_compress.bench.render.gpu_text import batch_cells, gpu_cells
from medfm_compress.bench.render.html.rendering import drawing
from medfm_compress.bench.render.model_names import model_name, shortened
from medfm_compress.bench.render.pareto_points import is_teacher_elsewhere
from medfm_compress.bench.render.plots.latency import Samples, Stages, latency_plot, stage_box, stage_plot
from medfm_compress.bench.render.plots.svg import SERIES
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement

_STAGE_NAMES = {
    "read": "read and decode",
    "preprocess": "preprocess",
    "infer": "network",
    "postprocess": "decide",
}


class MeasuredModel(NamedTuple):
    """One row of the tables: its name as people read it, its mark, and how many times faster than the teacher it is."""

    name: str
    measurement: Measurement
    series: int
    is_hollow: bool
    speedup: Interval | None


class SpeedView(NamedTuple):
    """Everything measured, and its drawings; the stages have a name and a box each, none where none were timed.

    Rows of a model's name and cells: ``gpu`` of what ran on one, ``batches`` of several images at once.
    """

    models: list[MeasuredModel]
    rounds: int
    calls_for_p99: int
    latency_plot: Markup
    stages: list[tuple[str, Markup]]
    stage_plot: Markup
    gpu: list[tuple[str, list[str]]]
    batches: list[tuple[str, list[str]]]


def speed_view(report: Report) -> SpeedView | None:
    """Tables and drawings of everything measured; None where nothing was."""
    if not report.measurements:
        return None
    first = report.measurements[0]
    rows = _stages(report)
    stages = list(dict.fromkeys(stage for row in rows for stage in row.medians_ms))
    return SpeedView(
        [_model(report, measurement) for measurement in report.measurements],
        len(first.session_ms) // first.calls_per_round if first.calls_per_round else 1,
        samples_for_upper_bound(0.99),
        _latency_plot(report),
        [
            (_STAGE_NAMES.get(stage, stage), drawing(stage_box(place, 0.5, 0.5, 25, 13)))
            for place, stage in enumerate(stages)
        ],
        drawing(stage_plot(rows, title="Median time of each stage of one prediction") if rows else ""),
        [(model_name(report, m.name), gpu_cells(m)) for m in report.measurements if m.device_ms or m.gpu_states],
        [(model_name(report, m.name), batch_cells(timing)) for m in report.measurements for timing in m.batches],
    )


def _model(report: Report, measurement: Measurement) -> MeasuredModel:
    is_hollow = is_teacher_elsewhere(report, measurement)
    return MeasuredModel(
        name=model_name(report, measurement.name),
        measurement=measurement,
        series=0 if is_hollow else _series(report, measurement.name),
        is_hollow=is_hollow,
        speedup=next((speedup.ratio for speedup in report.speedups if speedup.name == measurement.name), None),
    )


def _series(report: Report, name: str) -> int:
    """The colour of the model's curves; the last one for engines that are there for comparison only."""
    names = [table.name for table in report.evaluations]
    return names.index(name) if name in names else SERIES - 1


def _latency_plot(report: Report) -> Markup:
    rows = [Samples(shortened(m.name, 24), m.session_ms, _series(report, m.name)) for m in report.measurements]
    return drawing(latency_plot(rows, title="Session latency of every model"))


def _stages(report: Report) -> list[Stages]:
    rows = []
    for measurement in report.measurements:
        medians = {stage: float(np.median(values)) for stage, values in measurement.stages_ms.items() if values}
        if medians:
            rows.append(Stages(shortened(model_name(report, measurement.name), 26), medians))
    return rows
