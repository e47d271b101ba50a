"""Sections on accuracy: requirements, comparison with forest plot, curves, confusion matrices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.curves import precision_recall, rates, roc
from medfm_compress.bench.evaluate import EvaluationTable
from medfm_compress.bench.html_text import METRIC_NAMES, bounds, esc, number, signed
from medfm_compress.bench.html_verdict import mark
from medfm_compress.bench.plots import (
    Series,
    curve_plot,
    forest_axis,
    forest_range,
    forest_row,
    series_class,
)
from medfm_compress.bench.report import Report
from medfm_compress.bench.types import Comparison, Interval, Verdict
from medfm_compress.runtime.task import OperatingPoint

_LARGEST_MATRIX = 12
_KEPT_ROWS = 14


def requirements(report: Report, verdict: Verdict) -> str:
    """Every check of every variant, as the gate stated it."""
    rows = []
    for variant in verdict.variants:
        rows.append(f'<tr class="group"><th class="text" colspan="3">{esc(variant.variant)}</th></tr>')
        rows += [
            f'<tr><th class="text">{esc(check.name)}</th><td class="text">{mark(check.outcome)}</td>'
            f'<td class="text">{esc(check.reason)}</td></tr>'
            for check in variant.checks
        ]
    head = '<tr><th class="text">Requirement</th><th class="text">Outcome</th><th class="text">Found</th></tr>'
    table = f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"
    return f'{_policy_lead(report)}<div class="wide">{table}</div>'


def comparison_tables(report: Report, _: Verdict) -> str:
    """One table a variant: teacher, bundle, difference, margin and the forest plot in its last column."""
    level = _level_name(report.comparisons)
    lead = (
        f'<p class="lead">Teacher and bundle on the same {len(report.teacher.clusters):,} cases; the difference is '
        f"bundle minus teacher, paired case by case and clustered by patient, with {level} intervals.</p>"
    )
    # One scale for all variants, so that their plots can be compared.
    span = forest_range(
        [found.difference for found in report.comparisons if not found.too_few],
        [found.margin for found in report.comparisons if found.margin is not None],
    )
    tables = []
    for variant in report.variants:
        mine = [found for found in report.comparisons if found.variant == variant]
        heading = f"<h3>{esc(variant)}</h3>" if len(report.variants) > 1 else ""
        if mine:
            tables.append(f"<div{_keep(len(mine))}>{heading}{_comparison_table(mine, span)}</div>")
    note = (
        '<p class="note">Shaded rows are required by the policy. The dot is the difference, the line its interval; '
        "hatching begins where the bundle would be worse than the margin allows. Non-inferior means that the whole "
        "interval lies outside the hatching.</p>"
    )
    return lead + "".join(tables) + note


def curve_section(report: Report, _: Verdict) -> str:
    """ROC and precision-recall overlays, one pair a finding."""
    evaluations = [_Columns(table) for table in report.evaluations]
    parts = [_legend(report)]
    for column, finding in enumerate(report.teacher.findings):
        heading = f"<h3>{esc(finding)}</h3>" if len(report.teacher.findings) > 1 else ""
        parts.append(heading + _curve_pair(evaluations, column, finding))
    parts.append(
        '<p class="note">Marks are the stored operating points (square: teacher), which were chosen on validation '
        "cases. A curve near the upper left (ROC) or upper right (precision–recall) is better.</p>"
    )
    return "".join(parts)


def matrix_section(report: Report, _: Verdict) -> str:
    """Confusion matrices at the stored operating points."""
    rule = "A case is called where its label is the most probable."
    if report.task.operating_points:
        rule = f"The bundle calls {_thresholds(report.task.operating_points)}."
    if report.teacher_operating_points:
        rule += f" The teacher calls {_thresholds(report.teacher_operating_points)}."
    draw = _class_matrices if report.task.kind == "multiclass" else _finding_matrices
    note = '<p class="note">Dashed cells are errors. Percentages are of the row: of all cases with that truth.</p>'
    return f'<p class="lead">{esc(rule)}</p>{draw(report)}{note}'


def _thresholds(points: Sequence[OperatingPoint]) -> str:
    return "; ".join(
        f"{point.label} at a probability of {number(point.threshold)} or more (rule: {point.rule})" for point in points
    )


class _Columns:
    """The columns of a table as arrays ``[n, findings]``."""

    def __init__(self, table: EvaluationTable) -> None:
        self.name = table.name
        self.scores = np.array(table.scores, dtype=np.float64)
        self.truth = np.array(table.truth, dtype=np.int64)
        self.decisions = np.array(table.decisions, dtype=np.int64)


def _policy_lead(report: Report) -> str:
    policy = report.policy
    return (
        '<p class="lead">From the policy, whose hash was logged before the cases were evaluated: non-inferiority is '
        f"judged one‑sided at α = {policy.alpha:g}, each required comparison on its own; at least "
        f"{policy.min_positives} patients with the finding, {policy.min_negatives} without and "
        f"{policy.min_clusters} in all.</p>"
    )


def _level_name(comparisons: Sequence[Comparison]) -> str:
    levels = {found.difference.level for found in comparisons}
    return f"{100 * levels.pop():g}%" if len(levels) == 1 else "two-sided"


def _keep(rows: int) -> str:
    """Class of a block that print must not tear, if it is short enough for that."""
    return ' class="keep"' if rows <= _KEPT_ROWS else ""


def _comparison_table(comparisons: Sequence[Comparison], span: tuple[float, float]) -> str:
    head = (
        "<tr><th>Metric</th><th>Teacher</th><th>Bundle</th><th>Difference</th><th>Margin</th>"
        f'<th class="plot">{forest_axis(span)}</th></tr>'
    )
    rows, several, finding = [], len({found.finding for found in comparisons}) > 1, None
    for found in comparisons:
        if several and found.finding != finding:
            finding = found.finding
            rows.append(f'<tr class="group"><th colspan="6">{esc(finding or "All labels together")}</th></tr>')
        rows.append(_comparison_row(found, span))
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></div>'


def _comparison_row(found: Comparison, span: tuple[float, float]) -> str:
    values = _value_cell(found.teacher, found.too_few) + _value_cell(found.bundle, found.too_few)
    plot = f'<span class="sub wrap">{esc(found.too_few)}</span>'
    return (
        f"<tr{'' if found.margin is None else ' class=required'}><th>{METRIC_NAMES[found.metric]}</th>{values}"
        f"{_value_cell(found.difference, found.too_few, sign=True)}{_margin_cell(found)}"
        f'<td class="plot">{plot if found.too_few else forest_row(found.difference, found.margin, span)}</td></tr>'
    )


def _value_cell(interval: Interval, too_few: str, *, sign: bool = False) -> str:
    value = signed(interval.estimate) if sign else number(interval.estimate)
    return f'<td>{value}<span class="sub">{"no interval" if too_few else bounds(interval, sign=sign)}</span></td>'


def _margin_cell(found: Comparison) -> str:
    if found.margin is None:
        return '<td><span class="sub">not required</span></td>'
    within = found.difference.low > -found.margin and not found.too_few
    return f'<td>−{found.margin:g}<span class="sub">{"interval within" if within else "not shown"}</span></td>'


def _legend(report: Report) -> str:
    items = []
    for index, table in enumerate(report.evaluations):
        name = f"Teacher ({report.teacher_name})" if index == 0 else table.name
        style = series_class(index)
        sample = (
            f'<svg width="30" height="8" aria-hidden="true"><line class="line {style}" x2="30" y1="4" y2="4"/></svg>'
        )
        items.append(f"<span>{sample}{esc(name)}</span>")
    return f'<div class="legend">{"".join(items)}</div>'


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
