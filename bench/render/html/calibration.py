"""Reliability diagrams before and after temperature scaling, with ECE and Brier score."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from markupsafe import Markup

from medfm_compress.bench.evaluate.calibration_error import Calibration, Reliability, calibrations
from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.render.html.rendering import drawing
from medfm_compress.bench.render.model_names import model_name
from medfm_compress.bench.render.plots.curves import Bin, reliability_plot
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.runtime.activation import probabilities
from medfm_compress.runtime.task import Task

_MOST_FINDINGS = 4
_SAME = 1e-6


class CalibrationRow(NamedTuple):
    """Errors of one model and finding; ``finding`` is empty where there is only one."""

    name: str
    finding: str
    temperature: str
    calibration: Calibration


class CalibrationView(NamedTuple):
    """The errors; heading and figures (caption, plot) of each finding; how many findings are not drawn."""

    errors: list[CalibrationRow]
    diagrams: list[tuple[str, list[tuple[str, Markup]]]]
    hidden: int


class _Model(NamedTuple):
    """A model's place among the marks, name, temperature in words, and calibration by finding."""

    place: int
    name: str
    temperature: str
    is_scaled: bool
    findings: tuple[Calibration, ...]


def calibration_view(report: Report) -> CalibrationView:
    """A table of the errors, then one diagram a finding and model."""
    tables = [table for table in report.evaluations if table.name == TEACHER or table.name in report.variants]
    models = [_model(report, table, place) for place, table in enumerate(tables)]
    findings, several = report.teacher.findings, len(report.teacher.findings) > 1
    errors = [
        CalibrationRow(model.name, calibration.finding if several else "", model.temperature, calibration)
        for model in models
        for calibration in model.findings
    ]
    diagrams = [
        (finding if several else "", [(model.name, _diagram(model, column)) for model in models])
        for column, finding in enumerate(findings[:_MOST_FINDINGS])
    ]
    return CalibrationView(errors, diagrams, max(len(findings) - _MOST_FINDINGS, 0))


def _model(report: Report, table: EvaluationTable, place: int) -> _Model:
    is_scaled, recorded = _is_scaled(table, report.task), report.tasks.get(table.name)
    temperature = f"temperature {recorded.temperature:.3g}" if recorded else "temperature not recorded"
    return _Model(
        place,
        model_name(report, table.name),
        temperature if is_scaled else "no temperature scaling",
        is_scaled,
        tuple(calibrations(table, report.task_of(table.name))),
    )


def _diagram(model: _Model, column: int) -> Markup:
    calibration = model.findings[column]
    before = _bins(calibration.before) if model.is_scaled else []
    title = f"Reliability of {model.name}, {calibration.finding}"
    return drawing(reliability_plot(before, _bins(calibration.after), index=model.place, title=title))


def _bins(reliability: Reliability) -> list[Bin]:
    return [
        Bin(part.mean_score, part.observed.estimate, part.observed.low, part.observed.high, part.cases)
        for part in reliability.bins
    ]


def _is_scaled(table: EvaluationTable, task: Task) -> bool:
    """Whether the scores are other than the logits at temperature 1."""
    plain = probabilities(np.array(table.logits), msgspec.structs.replace(task, temperature=1.0, operating_points=()))
    return bool(np.abs(plain - np.array(table.scores)).max() > _SAME)
