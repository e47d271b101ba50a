"""Drawings on the unit square: ROC and precision-recall curves, reliability diagrams, teacher against variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from medfm_compress.bench.evaluate.roc_pr_curves import Curve
from medfm_compress.bench.render.plots.svg import (
    Axis,
    crosses,
    dots,
    line,
    mark,
    series_class,
    svg,
    text,
    unit_grid,
    upright,
)

Places = Sequence[tuple[float, float]]
_X, _Y = Axis(0, 1, 46, 306), Axis(0, 1, 270, 10)


class Series(NamedTuple):
    """One model's curve, and where its decisions stand on it (none without decisions)."""

    name: str
    curve: Curve
    point: tuple[float, float] | None
    series: int


class Bin(NamedTuple):
    """Cases of one range of scores: mean score, share with the finding and its interval, how many."""

    predicted: float
    observed: float
    low: float
    high: float
    cases: int


class Scatter(NamedTuple):
    """Scores of the same cases by two models.

    Attributes:
        negatives: (teacher, variant) scores of cases without the finding on which both decide alike.
        positives: likewise, with the finding.
        harmful: cases that the teacher alone decides rightly.
        beneficial: cases that the variant alone decides rightly.
        thresholds: of teacher and variant; none where decisions follow no threshold.
    """

    negatives: Places
    positives: Places
    harmful: Places
    beneficial: Places
    thresholds: tuple[float, float] | None


def curve_plot(series: Sequence[Series], *, title: str, x_label: str, y_label: str, diagonal: bool = False) -> str:
    """Curves on the unit square with their operating points as ringed marks."""
    parts = [unit_grid(_X, _Y)]
    if diagonal:
        parts.append(line(_X.at(0), _Y.at(0), _X.at(1), _Y.at(1), "chance"))
    for item in series:
        parts.append(_polyline(item.curve, item.series))
    for item in series:
        if item.point:
            parts.append(_operating_point(_X.at(item.point[0]), _Y.at(item.point[1]), item.series))
    return _labelled(parts, title, x_label, y_label)


def reliability_plot(before: Sequence[Bin], after: Sequence[Bin], *, index: int, title: str) -> str:
    """Observed share over mean score by bin, calibrated solid and uncalibrated hollow; counts as bars at the foot."""
    parts = [unit_grid(_X, _Y), line(_X.at(0), _Y.at(0), _X.at(1), _Y.at(1), "chance")]
    most = max((part.cases for part in after), default=1)
    for part in after:
        height = 40 * part.cases / most
        parts.append(
            f'<rect class="count" x="{_X.at(part.predicted) - 5:.1f}" y="{_Y.start - height:.1f}" width="10" '
            f'height="{height:.1f}"/>'
        )
    parts += [_reliability_points(before, index, hollow=True), _reliability_points(after, index, hollow=False)]
    return _labelled(parts, title, "mean predicted probability", "share with the finding")


def scatter_plot(cloud: Scatter, *, title: str, measure: str = "probability") -> str:
    """Variant over teacher score, which is a ``measure``; cases decided differently stand out by shape."""
    parts = [unit_grid(_X, _Y), line(_X.at(0), _Y.at(0), _X.at(1), _Y.at(1), "chance")]
    parts += [dots(_placed(cloud.negatives), "cloud"), crosses(_placed(cloud.positives), "cloud plus")]
    if cloud.thresholds:
        across, up = _X.at(cloud.thresholds[0]), _Y.at(cloud.thresholds[1])
        parts += [line(across, _Y.start, across, _Y.stop, "threshold"), line(_X.start, up, _X.stop, up, "threshold")]
    parts += [flip_mark(x, y, harmful=False) for x, y in _placed(cloud.beneficial)]
    parts += [flip_mark(x, y, harmful=True) for x, y in _placed(cloud.harmful)]
    return _labelled(parts, title, f"teacher's {measure}", f"variant's {measure}")


def overlap_plot(kept: Places, lost: Places, regained: Places, *, title: str) -> str:
    """Variant's Dice over the teacher's; structures that only one of them met stand out by shape."""
    parts = [unit_grid(_X, _Y), line(_X.at(0), _Y.at(0), _X.at(1), _Y.at(1), "chance"), dots(_placed(kept), "cloud")]
    parts += [flip_mark(x, y, harmful=False) for x, y in _placed(regained)]
    parts += [flip_mark(x, y, harmful=True) for x, y in _placed(lost)]
    return _labelled(parts, title, "teacher's Dice", "variant's Dice")


def flip_mark(x: float, y: float, *, harmful: bool) -> str:
    """A full diamond for harm, an open ring for benefit."""
    if harmful:
        return f'<path class="harmful" d="M{x:g} {y - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>'
    return f'<circle class="beneficial" cx="{x:g}" cy="{y:g}" r="4.2"/>'


def _placed(places: Places) -> list[tuple[float, float]]:
    return [(_X.at(x), _Y.at(y)) for x, y in places]


def _labelled(parts: Sequence[str], title: str, x_label: str, y_label: str) -> str:
    middle = (_X.start + _X.stop) / 2
    labels = text(middle, 304, x_label, "axis middle") + upright(11, 140, y_label)
    return svg(316, 310, title, "".join(parts) + labels, "curve")


def _reliability_points(bins: Sequence[Bin], index: int, *, hollow: bool) -> str:
    style = f"line thin {series_class(index)}{' before' if hollow else ''}"
    points = " ".join(f"{_X.at(part.predicted)},{_Y.at(part.observed)}" for part in bins)
    parts = [f'<polyline class="{style}" points="{points}"/>']
    for part in bins:
        x, y = _X.at(part.predicted), _Y.at(part.observed)
        if not hollow:
            parts.append(line(x, _Y.at(part.low), x, _Y.at(part.high), f"error {series_class(index)}"))
        parts.append(mark(x, y, index, hollow=hollow, size=3.6))
    return "".join(parts)


def _polyline(curve: Curve, index: int) -> str:
    points = " ".join(f"{_X.at(float(a))},{_Y.at(float(b))}" for a, b in zip(curve.x, curve.y, strict=True))
    return f'<polyline class="line {series_class(index)}" points="{points}"/>'


def _operating_point(x: float, y: float, index: int) -> str:
    return f'<g class="{series_class(index)}"><circle class="halo" cx="{x:g}" cy="{y:g}" r="7.5"/>' + (
        f"{mark(x, y, index, size=3.8)}</g>"
    )
