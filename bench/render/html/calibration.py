"""Reliability diagrams before and after temperature scaling, with ECE and Brier score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfm_compress.bench.evaluate.calibration_error import Calibration, Reliability, calibrations
from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.render.format import counted, esc, number
from medfm_compress.bench.render.plots.curves import Bin, reliability_plot
from medfm_compress.bench.render.plots.svg import key
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.runtime.activation import probabilities
from medfm_compress.runtime.task import Task

_MOST_FINDINGS = 4
_SAME = 1e-6


def calibration_section(report: Report, _: Verdict) -> str:
    """A table of the errors, then one diagram a finding and model."""
    tables = [table for table in report.evaluations if table.name == TEACHER or table.name in report.variants]
    found = [(table, calibrations(table, report.task_of(table.name))) for table in tables]
    rows = "".join(
        _row(_name(report, table), one, text=_temperature(report, table), several=len(several) > 1)
        for table, several in found
        for one in several
    )
    head = (
        '<tr><th class="text" rowspan="2">Model</th><th colspan="2" class="span">ECE</th><th colspan="2" '
        'class="span">Brier '
        'score</th><th colspan="2" class="span">Log loss</th></tr><tr>'
        f"{3 * '<th>before</th><th>after</th>'}</tr>"
    )
    return (
        '<p class="lead">A probability can be believed where, of all cases given 70%, about 70% have the finding. '
        "Before and "
        "after temperature scaling, the temperature having been chosen on validation cases.</p>"
        f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>{_diagrams(report, found)}"
    )


def _diagrams(report: Report, found: Sequence[tuple[EvaluationTable, Sequence[Calibration]]]) -> str:
    parts = []
    for column, finding in enumerate(report.teacher.findings[:_MOST_FINDINGS]):
        heading = f"<h3>{esc(finding)}</h3>" if len(report.teacher.findings) > 1 else ""
        figures = "".join(
            _figure(report, table, several[column], index) for index, (table, several) in enumerate(found)
        )
        parts.append(f'{heading}<div class="thirds">{figures}</div>')
    hidden = len(report.teacher.findings) - _MOST_FINDINGS
    more = f" {counted(hidden, 'more finding')} not drawn." if hidden > 0 else ""
    return "".join(parts) + (
        f'<div class="legend"><span>{key(0)}{key(1)}as shipped, with 95% intervals</span><span>{key(0, hollow=True)}'
        f"{key(1, hollow=True)}before scaling</span><span>"
        '<svg class="key" viewBox="0 0 14 14" aria-hidden="true"><rect class="count" x="2" y="3" width="9" '
        'height="11"/></svg>'
        "how many cases</span></div>"
        '<p class="note">On the dotted diagonal the probabilities are right; above it they are too low, below it '
        "too high. The "
        "intervals are Wilson’s, clustered by patient. ECE depends on its bins and is too large on few cases: it "
        "is shown and "
        f"never required.{more}</p>"
    )


def _row(name: str, found: Calibration, *, text: str, several: bool) -> str:
    label = f'<span class="sub">{esc(found.finding)}</span>' if several else ""
    cells = "".join(
        f"<td>{number(getattr(found.before, error), 4)}</td><td>{number(getattr(found.after, error), 4)}</td>"
        for error in ("ece", "brier", "log_loss")
    )
    return f'<tr><th class="text">{esc(name)}{label}<span class="sub">{text}</span></th>{cells}</tr>'


def _figure(report: Report, table: EvaluationTable, found: Calibration, index: int) -> str:
    name = _name(report, table)
    before = _bins(found.before) if _is_scaled(table, report.task) else []
    plot = reliability_plot(before, _bins(found.after), index=index, title=f"Reliability of {name}, {found.finding}")
    return f"<figure><figcaption>{esc(name)}</figcaption>{plot}</figure>"


def _bins(found: Reliability) -> list[Bin]:
    return [
        Bin(part.mean_score, part.observed.estimate, part.observed.low, part.observed.high, part.cases)
        for part in found.bins
    ]


def _temperature(report: Report, table: EvaluationTable) -> str:
    if not _is_scaled(table, report.task):
        return "no temperature scaling"
    recorded = report.tasks.get(table.name)
    return f"temperature {recorded.temperature:.3g}" if recorded else "temperature not recorded"


def _is_scaled(table: EvaluationTable, task: Task) -> bool:
    """Whether the scores are other than the logits at temperature 1."""
    plain = probabilities(np.array(table.logits), Task(kind=task.kind, labels=task.labels))
    return bool(np.abs(plain - np.array(table.scores)).max() > _SAME)


def _name(report: Report, table: EvaluationTable) -> str:
    return f"Teacher ({report.teacher_name})" if table.name == TEACHER else table.name
