"""ROC and precision-recall curves of every model, and its decisions as confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.roc_pr_curves import precision_recall, rates, roc
from medfm_compress.bench.render.format import number
from medfm_compress.bench.render.html.prediction_flips import points_of
from medfm_compress.bench.render.html.rendering import drawing
from medfm_compress.bench.render.model_names import name_with_origin
from medfm_compress.bench.render.plots.curves import Series, curve_plot
from medfm_compress.bench.report import Report
from medfm_compress.runtime.activation import DEFAULT_THRESHOLD

_LARGEST_MATRIX = 12


class Matrix(NamedTuple):
    """Cases ``[truth][called]`` of one model."""

    model: str
    names: Sequence[str]
    cases: list[list[int]]


class CurvesView(NamedTuple):
    """Everything of the section; the heading of a finding is empty where there is only one.

    Attributes:
        models: every evaluated one, in the order of their marks.
        curves: heading, ROC and precision-recall plot of each finding.
        rules: model → how it decides.
        matrices: heading and one matrix a model.
        too_many_classes: how many would fit, where there are more; else 0.
    """

    models: list[str]
    curves: list[tuple[str, Markup, Markup]]
    rules: dict[str, str]
    matrices: list[tuple[str, list[Matrix]]]
    too_many_classes: int


def curves_view(report: Report) -> CurvesView:
    """ROC and precision-recall overlays, one pair a finding, and confusion matrices at the stored operating points."""
    evaluations = [_Columns(table) for table in report.evaluations]
    findings = report.teacher.findings
    exclusive = report.task.kind == "multiclass"
    too_large = exclusive and len(report.task.labels) > _LARGEST_MATRIX
    matrices = [] if too_large else _class_matrices(report) if exclusive else _finding_matrices(report)
    return CurvesView(
        [name_with_origin(report, table.name) for table in report.evaluations],
        [
            (finding if len(findings) > 1 else "", *_curve_pair(evaluations, column, finding))
            for column, finding in enumerate(findings)
        ],
        {table.name: _rule(report, table.name) for table in report.evaluations},
        matrices,
        _LARGEST_MATRIX if too_large else 0,
    )


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


def _curve_pair(evaluations: Sequence[_Columns], column: int, finding: str) -> tuple[Markup, Markup]:
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
    return drawing(left), drawing(right)


def _finding_matrices(report: Report) -> list[tuple[str, list[Matrix]]]:
    sections, findings = [], report.task.findings
    for column, finding in enumerate(findings):
        names = report.task.labels if report.task.kind == "binary" else (f"no {finding}", finding)
        matrices = [
            Matrix(model.name, names[:2], _counts(model.truth[:, column], model.decisions[:, column], 2))
            for model in map(_Columns, report.evaluations)
        ]
        sections.append((finding if len(findings) > 1 else "", matrices))
    return sections


def _class_matrices(report: Report) -> list[tuple[str, list[Matrix]]]:
    labels = report.task.labels
    matrices = [
        Matrix(model.name, labels, _counts(model.truth.argmax(axis=1), model.scores.argmax(axis=1), len(labels)))
        for model in map(_Columns, report.evaluations)
    ]
    return [("", matrices)]


def _counts(truth: NDArray[np.int64], called: NDArray[np.int64], classes: int) -> list[list[int]]:
    """Cases ``[truth, called]``."""
    counts: list[list[int]] = (
        np.bincount(classes * truth + called, minlength=classes * classes).reshape(classes, classes).tolist()
    )
    return counts
