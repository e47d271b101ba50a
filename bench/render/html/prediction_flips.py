"""Decisions that changed: fidelity, who was right, and the cases by number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from medfm_compress.bench.evaluate.prediction_flips import KINDS, OVERLAP_KINDS, Flip, find_flips
from medfm_compress.bench.render.format import number
from medfm_compress.bench.render.html.rendering import drawing
from medfm_compress.bench.render.model_names import name_with_origin
from medfm_compress.bench.render.plots.curves import Scatter, flip_mark, scatter_plot
from medfm_compress.bench.report import TEACHER, Report
from medfm_compress.bench.stats.mcnemar import mcnemar
from medfm_compress.bench.types.evaluation import Evaluation, Fidelity
from medfm_compress.runtime.activation import DEFAULT_THRESHOLD
from medfm_compress.runtime.task import OperatingPoint

MOST_LISTED = 24
MOST_DOTS = 500
_MOST_SCATTERS = 4
_PARTS = {
    "harmful": "Harmful, the teacher alone is right",
    "neither": "Both are wrong, in different ways",
    "beneficial": "Beneficial, the bundle alone is right",
}
_DIRECTIONS: Mapping[str, str] = {**KINDS, **OVERLAP_KINDS, "newly wrong": "harmful", "newly right": "beneficial"}


class KindCounts(NamedTuple):
    """Changes of one model (and finding, of several) by kind, with McNemar's p."""

    name: str
    finding: str
    kinds: Counter[str]
    p: float


class FlipRow(NamedTuple):
    """One case, counted from 1, and what is told of it."""

    case: int
    cells: tuple[str, ...]


class FlipPart(NamedTuple):
    """Listed changes of one direction, and how many there are in all."""

    title: str
    total: int
    is_harmful: bool
    rows: list[FlipRow]


class FlipList(NamedTuple):
    """The changes of one variant; ``hidden`` are not listed."""

    variant: str
    heads: tuple[str, ...]
    parts: list[FlipPart]
    hidden: int


class FlipsView(NamedTuple):
    """Fidelity by model, changes by kind (kind → direction), scatter plots of the scores, and the cases.

    ``drawn`` is the number of findings that have a scatter plot.
    """

    fidelity: list[tuple[str, Fidelity]]
    kinds: dict[str, str]
    totals: list[KindCounts]
    legend: dict[str, Markup]
    scatters: list[tuple[str, Markup]]
    drawn: int
    most_dots: int
    lists: list[FlipList]


def flips_view(report: Report) -> FlipsView:
    """Fidelity, flips by kind, scatter of the scores, and a list of the cases."""
    teacher = report.teacher.to_evaluation()
    others = [table.to_evaluation() for table in report.evaluations[1:]]
    flips = {other.name: find_flips(teacher, other) for other in others}
    return FlipsView(
        fidelity=[(name_with_origin(report, entry.variant), entry) for entry in report.fidelity],
        kinds=_kinds(report, flips),
        totals=_totals(report, flips),
        legend=_legend(),
        scatters=_scatters(report, teacher, [other for other in others if other.name in report.variants]),
        drawn=min(len(teacher.findings), _MOST_SCATTERS),
        most_dots=MOST_DOTS,
        lists=[_listed(name, changes) for name, changes in flips.items() if name in report.variants],
    )


def points_of(report: Report, name: str) -> tuple[OperatingPoint, ...] | None:
    """Operating points that ``name`` decides by; None where it calls the most probable label."""
    points = report.task_of(name).operating_points
    if name == TEACHER and name not in report.tasks:
        points = report.teacher_operating_points
    return None if report.task.kind == "multiclass" and not points else points


def _kinds(report: Report, flips: Mapping[str, Sequence[Flip]]) -> dict[str, str]:
    usual = list(KINDS) if report.task.kind != "multiclass" else []
    met = {flip.kind for changes in flips.values() for flip in changes}
    return {kind: _DIRECTIONS.get(kind, "") for kind in (*usual, *sorted(met - set(usual)))}


def _totals(report: Report, flips: Mapping[str, Sequence[Flip]]) -> list[KindCounts]:
    rows = []
    for name, changes in flips.items():
        for finding in report.task.findings if report.task.independent else ("",):
            of_finding = [flip for flip in changes if not finding or flip.finding == finding]
            kinds = Counter(flip.kind for flip in of_finding)
            rows.append(KindCounts(name_with_origin(report, name), finding, kinds, _p_value(of_finding)))
    return rows


def _p_value(flips: Sequence[Flip]) -> float:
    directions = Counter(flip.direction for flip in flips)
    return mcnemar(directions["beneficial"], directions["harmful"])


def _legend() -> dict[str, Markup]:
    signs = {
        "harmful change": flip_mark(7, 7, harmful=True),
        "beneficial change": flip_mark(7, 7, harmful=False),
        "unchanged, with the finding": '<path class="cloud plus" d="M4 7h6M7 4v6"/>',
        "unchanged, without it": '<path class="cloud large" d="M7 7h0"/>',
    }
    return {name: drawing(sign) for name, sign in signs.items()}


def _scatters(report: Report, teacher: Evaluation, variants: Sequence[Evaluation]) -> list[tuple[str, Markup]]:
    measure = "probability" if report.task.gives_probabilities else "score"
    figures = []
    for variant in variants:
        for column, finding in enumerate(teacher.findings[:_MOST_SCATTERS]):
            caption = f"{variant.name}: {finding}" if len(teacher.findings) > 1 else variant.name
            title = f"Scores of {variant.name} over the teacher's, {finding}"
            cloud = _cloud(report, teacher, variant, column)
            figures.append((caption, drawing(scatter_plot(cloud, title=title, measure=measure))))
    return figures


def _cloud(report: Report, teacher: Evaluation, variant: Evaluation, column: int) -> Scatter:
    places = np.stack([teacher.scores[:, column], variant.scores[:, column]], axis=1)
    truth = teacher.truth[:, column]
    first, second = teacher.decisions[:, column], variant.decisions[:, column]
    same = np.flatnonzero(first == second)
    same = same[np.linspace(0, len(same) - 1, min(len(same), MOST_DOTS)).astype(np.int64)] if len(same) else same
    rows = {
        "negatives": same[truth[same] == 0],
        "positives": same[truth[same] == 1],
        "harmful": np.flatnonzero((first == truth) & (second != truth)),
        "beneficial": np.flatnonzero((first != truth) & (second == truth)),
    }
    drawn = {name: [(float(x), float(y)) for x, y in places[chosen]] for name, chosen in rows.items()}
    across, up = (_threshold(report, name, teacher.findings[column]) for name in (TEACHER, variant.name))
    return Scatter(**drawn, thresholds=None if across is None or up is None else (across, up))


def _threshold(report: Report, name: str, finding: str) -> float | None:
    points = points_of(report, name)
    if points is None:
        return None
    return next((point.threshold for point in points if point.label == finding), DEFAULT_THRESHOLD)


def _listed(variant: str, flips: Sequence[Flip]) -> FlipList:
    """The first changes, which `find_flips` has ordered by direction."""
    columns = tuple(flips[0].subgroups) if flips else ()
    several = len({flip.finding for flip in flips}) > 1
    totals = Counter(flip.direction for flip in flips)
    parts = []
    for direction, part in groupby(flips[:MOST_LISTED], key=lambda flip: flip.direction):
        rows = [FlipRow(flip.case + 1, _cells(flip, columns, several=several)) for flip in part]
        parts.append(FlipPart(_PARTS[direction], totals[direction], direction == "harmful", rows))
    heads = ("Case", "What changed", "Truth", "Teacher", "Bundle", *columns)
    return FlipList(variant, heads, parts, max(len(flips) - MOST_LISTED, 0))


def _cells(flip: Flip, columns: Sequence[str], *, several: bool) -> tuple[str, ...]:
    # Of a finding the kind of change tells both decisions; of labels that exclude each other only their names do.
    names = ("", "") if flip.finding else (f" {flip.teacher}", f" {flip.bundle}")
    return (
        f"{flip.kind}: {flip.finding}" if several else flip.kind,
        flip.truth,
        f"{number(flip.teacher_score)}{names[0]}",
        f"{number(flip.bundle_score)}{names[1]}",
        *(flip.subgroups[column] or "not recorded" for column in columns),
    )
