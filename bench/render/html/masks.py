"""What a segmentation's report shows in place of curves and calibration: Dice case by case, and regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from medfm_compress.bench.render.html.mask_gallery import worst_first
from medfm_compress.bench.render.html.rendering import drawing
from medfm_compress.bench.render.model_names import name_with_origin
from medfm_compress.bench.render.plots.curves import overlap_plot
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.evaluation import Comparison, Evaluation
from medfm_compress.bench.types.mask_rules import MaskRules
from medfm_compress.bench.types.metric import Metric

MOST_WORST = 8
_LESIONS: tuple[Metric, ...] = ("lesion_sensitivity", "small_lesion_sensitivity", "false_positives_per_image")
Places = list[tuple[float, float]]


class Spread(NamedTuple):
    """How Dice is spread over the cases of one model: quartiles, the tenth lowest, and how many were lost."""

    model: str
    finding: str
    cases: int
    quantiles: tuple[float, float, float, float]
    lost: int


class Worst(NamedTuple):
    """One case, counted from 1, in which a variant is far worse than its teacher."""

    variant: str
    case: int
    finding: str
    teacher: float
    bundle: float
    teacher_hd95: float
    bundle_hd95: float


class MasksView(NamedTuple):
    """Plots (heading → caption, plot), the spread, the worst cases, and the rules that all of it rests on."""

    plots: list[tuple[str, list[tuple[str, Markup]]]]
    spreads: list[Spread]
    worst: list[Worst]
    rules: MaskRules
    unit: str


def masks_view(report: Report) -> MasksView:
    """Dice of every variant over the teacher's, one plot a structure and model."""
    teacher, *others = [table.to_evaluation() for table in report.evaluations]
    rules = teacher.mask_rules or MaskRules()
    several = len(teacher.findings) > 1
    plots = [
        (finding if several else "", [_plot(report, teacher, other, column, rules) for other in others])
        for column, finding in enumerate(teacher.findings)
        if teacher.case_metrics
    ]
    spreads = [
        spread
        for column in range(len(teacher.findings))
        for model in (teacher, *others)
        if (spread := _spread(report, model, column, rules)) is not None
    ]
    worst = [entry for other in others for entry in _worst(teacher, other)]
    return MasksView(plots, spreads, worst, rules, teacher.distance_unit)


class LesionRow(NamedTuple):
    """One count of regions, by model."""

    comparison: Comparison
    variant: str


class LesionsView(NamedTuple):
    """Comparisons of regions, and by which overlap one is found and below which size it is small."""

    rows: list[LesionRow]
    rules: MaskRules


def lesions_view(report: Report) -> LesionsView:
    """Sensitivity for regions of any size and for small ones, and what was made up, of all cases together."""
    rows = [
        LesionRow(comparison, name_with_origin(report, comparison.variant))
        for comparison in report.comparisons
        if comparison.metric in _LESIONS and not comparison.subgroup
    ]
    return LesionsView(rows, report.teacher.mask_rules or MaskRules())


def _plot(report: Report, teacher: Evaluation, other: Evaluation, column: int, rules: MaskRules) -> tuple[str, Markup]:
    before, after = _dice(teacher, column), _dice(other, column)
    shown = np.isfinite(before)
    least = rules.lost_below_dice
    lost, regained = (before >= least) & (after < least), (before < least) & (after >= least)
    plot = overlap_plot(
        _places(before, after, shown & ~lost & ~regained),
        _places(before, after, lost),
        _places(before, after, regained),
        title=f"Dice of {teacher.findings[column]}, case by case: {other.name} over teacher",
    )
    return name_with_origin(report, other.name), drawing(plot)


def _places(before: NDArray[np.float64], after: NDArray[np.float64], rows: NDArray[np.bool_]) -> Places:
    return list(zip(before[rows].tolist(), after[rows].tolist(), strict=True))


def _dice(model: Evaluation, column: int) -> NDArray[np.float64]:
    values: NDArray[np.float64] = model.case_metrics["dice"][:, column]
    return values


def _spread(report: Report, model: Evaluation, column: int, rules: MaskRules) -> Spread | None:
    values = _dice(model, column) if model.case_metrics else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, first, middle, third = (float(value) for value in np.quantile(values, (0.1, 0.25, 0.5, 0.75)))
    lost = int((values < rules.lost_below_dice).sum())
    name = name_with_origin(report, model.name)
    return Spread(name, model.findings[column], len(values), (low, first, middle, third), lost)


def _worst(teacher: Evaluation, other: Evaluation) -> Sequence[Worst]:
    """Cases in which Dice of some structure fell, the farthest first."""
    if not teacher.case_metrics:
        return []
    entries = []
    for row in worst_first(teacher, other)[:MOST_WORST]:
        change = other.case_metrics["dice"][row] - teacher.case_metrics["dice"][row]
        if np.isnan(change).all() or np.nanmin(change) >= 0:
            continue
        column = int(np.nanargmin(change))
        values = [
            float(model.case_metrics[metric][row, column]) for metric in ("dice", "hd95") for model in (teacher, other)
        ]
        entries.append(Worst(other.name, row + 1, teacher.findings[column], *values))
    return entries
