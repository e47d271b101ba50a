"""ROC and precision-recall curves of every model, and its decisions as confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.roc_pr_curves import precision_recall, rates, roc
from medfm_compress.bench.render.format import definitions, esc, number
from medfm_compress.bench.render.html.prediction_flips import points_of
from medfm_compress.bench.render.plots.curves import Series, curve_plot
from medfm_compress.bench.render.plots.svg import key, series_class
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.runtime.activation import DEFAULT_THRESHOLD

_LARGEST_MATRIX = 12


def curve_section(report: Report, _: Verdict) -> str:
    """ROC and precision-recall overlays, one pair a finding, and confusion matrices at the stored operating points."""
    evaluations = [_Columns(table) for table in report.evaluations]
    parts = [legend(report)]
    for column, finding in enumerate(report.teacher.findings):
        heading = f"<h3>{esc(finding)}</h3>" if len(report.teacher.findings) > 1 else ""
        parts.append(heading + _curve_pair(evaluations, column, finding))
    parts.append(
        '<p class="note">Marks are the stored operating points, which were chosen on validation '
        "cases. A curve near the upper left (ROC) or upper right (precision–recall) is better.</p>"
    )
    return "".join(parts) + _matrix_section(report)


def legend(report: Report) -> str:
    """Every evaluated model with its line and its mark."""
    items = []
    for index, table in enumerate(report.evaluations):
        name = f"Teacher ({report.teacher_name})" if index == 0 else table.name
        style = series_class(index)
        sample = (
            f'<svg width="30" height="8" aria-hidden="true"><line class="line {style}" x2="30" y1="4" y2="4"/></svg>'
        )
        other = " (not in the bundle)" if table.name in report.external_models else ""
        items.append(f"<span>{sample}{key(index)}{esc(name)}{other}</span>")
    return f'<div class="legend">{"".join(items)}</div>'


def _matrix_section(report: Report) -> str:
    """Confusion matrices at the stored operating points."""
    rules = {table.name: _rule(report, table.name) for table in report.evaluations}
    draw = _class_matrices if report.task.kind == "multiclass" else _finding_matrices
    note = '<p class="note">Dashed cells are errors. Percentages are of the row: of all cases with that truth.</p>'
    return f'<h3>Decisions</h3><dl class="rules">{definitions(rules)}</dl>{draw(report)}{note}'


def _rule(report: Report, name: str) -> str:
    points = points_of(report, name)
    if points is None:
        return "calls the most probable label"
    calls = ", ".join(f"{point.label} from {number(point.threshold)} on (rule: {point.rule})" for point in points)
    return f"calls {calls or f'a finding from {DEFAULT_THRESHOLD:g} on'}"


class _Columns:
    """The columns of a table as arrays ``[n, findings]``."""

    def __init__(self, table: EvaluationTable) -> None:
        self.name = table.name
        self.scores = np.array(table.scores, dtype=np.float64)
        self.truth = np.array(table.truth, dtype=np.int64)
        self.decisions = np.array(table.decisions, dtype=np.int64)


def _curve_pair(evaluations: Sequence[_Columns], column: int, finding: str) -> str:
    rocs, precisions = [], []
    for index, columns in enumerate(evaluations):
        truth, scores = columns.truth[:, column], columns.scores[:, column]
        sensitivity, false_rate, precision = rates(truth, columns.decisions[:, column])
        rocs.append(Series(columns.name, roc(truth, scores), (false_rate, sensitivity), index))
        precisions.append(Series(columns.name, precision_recall(truth, scores), (sensitivity, precision), index))
    left = curve_plot(
        rocs, title=f"ROC curves of {finding}", x_label="1 − specificity", y_label="sensitivity", diagonal=True
    )
    right = curve_plot(
        precisions, title=f"Precision-recall curves of {finding}", x_label="recall (sensitivity)", y_label="precision"
    )
    return (
        f'<div class="pair"><figure><figcaption>ROC</figcaption>{left}</figure>'
        f"<figure><figcaption>Precision–recall</figcaption>{right}</figure></div>"
    )


def _finding_matrices(report: Report) -> str:
    parts = []
    for column, finding in enumerate(report.task.findings):
        truth_names = report.task.labels if report.task.kind == "binary" else (f"no {finding}", finding)
        names = (truth_names[0], truth_names[1])
        tables = [
            _matrix(_counts(table.truth[:, column], table.decisions[:, column], 2), names, table.name, index)
            for index, table in enumerate(_Columns(table) for table in report.evaluations)
        ]
        heading = f"<h3>{esc(finding)}</h3>" if len(report.task.findings) > 1 else ""
        parts.append(f'{heading}<div class="matrices">{"".join(tables)}</div>')
    return "".join(parts)


def _class_matrices(report: Report) -> str:
    labels = report.task.labels
    if len(labels) > _LARGEST_MATRIX:
        return f'<p class="note">Not drawn: {len(labels)} classes; at most {_LARGEST_MATRIX} fit a page.</p>'
    tables = []
    for index, columns in enumerate(_Columns(table) for table in report.evaluations):
        counts = _counts(columns.truth.argmax(axis=1), columns.scores.argmax(axis=1), len(labels))
        tables.append(_matrix(counts, labels, columns.name, index))
    note = '<p class="note">By the most probable class.</p>'
    return f'<div class="matrices">{"".join(tables)}</div>{note}'


def _counts(truth: NDArray[np.int64], called: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Cases ``[truth, called]``."""
    return np.bincount(classes * truth + called, minlength=classes * classes).reshape(classes, classes)


def _matrix(counts: NDArray[np.int64], names: Sequence[str], model: str, index: int) -> str:
    head = "".join(f"<th>called<br>{esc(name)}</th>" for name in names)
    rows = []
    for row, name in enumerate(names):
        total = max(int(counts[row].sum()), 1)
        cells = []
        for column in range(len(names)):
            share = counts[row, column] / total
            style = "" if row == column else ' class="off"'
            cells.append(
                f'<td{style} style="--share:{6 + 40 * share:.0f}%"><b>{counts[row, column]:,}</b>'
                f"<span>{100 * share:.1f}%</span></td>"
            )
        rows.append(f"<tr><th>truly {esc(name)}</th>{''.join(cells)}</tr>")
    caption = f"<caption>{esc(model)}</caption>"
    return (
        f'<table class="matrix {series_class(index)}">{caption}<thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
