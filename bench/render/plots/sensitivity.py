"""Drawings of pruning sensitivity: error over the fraction removed, group by group and all groups in strips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from medfm_compress.bench.render.format import counted, number
from medfm_compress.bench.render.plots.svg import Axis, line, log_ticks, svg, text
from medfm_compress.bench.types.sensitivity import SensitivityCurve

CLASSES = (0.05, 0.1, 0.2, 0.5, 1.0)
LOSSES = (0.002, 0.005, 0.01, 0.02, 0.05)
_ROW, _NAME, _LONGEST = 17, 232, 32


def panel_plots(curves: Sequence[SensitivityCurve], score: float | None) -> list[str]:
    """One drawing a group, all on the same axes; the score below the error where it was measured."""
    points = [point for curve in curves for point in curve.points]
    errors = [point.error for point in points]
    areas = [point.score for point in points if point.score is not None]
    low = min(max(min(errors) / 1.3, 1e-4), 0.05)
    y = Axis(low, max(max(errors) * 1.3, 1.2), 128, 8, log=True)
    z = Axis(min([*areas, score or 1.0]) - 0.01, max([*areas, score or 0.0]) + 0.005, 222, 162)
    return [_panel(curve, y, z if areas else None) for curve in curves]


def strip_plot(
    curves: Sequence[SensitivityCurve], ranks: Mapping[str, int], score: float | None, score_name: str = "AUROC"
) -> str:
    """One row a group, left whole, right removed; beside it what is lost of ``score``, the whole model's."""
    top, end = 20, 900 - 16
    bottom = top + _ROW * len(curves)
    axes = [Axis(0, 1, _NAME + 34, end)] if score is None else [Axis(0, 1, _NAME + 34, 552), Axis(0, 1, 602, end)]
    parts = []
    for axis, words in zip(axes, ("fraction removed: error", f"fraction removed: loss of {score_name}"), strict=False):
        parts += [text(axis.at(v), top - 6, f"{v:.0%}", "tick middle") for v in (0, 0.25, 0.5, 0.75, 1)]
        parts.append(text((axis.start + axis.stop) / 2, bottom + 16, words, "axis middle"))
    for place, curve in enumerate(curves):
        y, rank = top + _ROW * place, ranks[curve.name]
        hot = " hot" if rank <= 10 else ""
        name = curve.name if len(curve.name) <= _LONGEST else f"…{curve.name[1 - _LONGEST :]}"
        parts.append(text(_NAME, y + 12, name, f"row-name end{hot}"))
        parts.append(text(_NAME + 26, y + 12, str(rank), f"tick end{hot}"))
        parts.append(_cells(curve, axes[0], y, None))
        if score is not None:
            parts.append(_cells(curve, axes[1], y, score))
    return svg(900, bottom + 24, f"Sensitivity of {counted(len(curves), 'group')}", "".join(parts), "strip")


def shade_class(style: str, place: int) -> str:
    """Class of the ``place``-th shade of errors (``h``) or losses of score (``a``); the lightest is common to both."""
    return f"{style}{place}" if place else "h0"


def _panel(curve: SensitivityCurve, y: Axis, z: Axis | None) -> str:
    x, foot = Axis(0, 1, 40, 272), 222 if z else 128
    marks = [value for value in log_ticks(y.low, y.high) if f"{value:e}"[0] == "1"]
    parts = [line(x.start, y.at(v), x.stop, y.at(v), "reference" if v == 1 else "grid") for v in marks]
    parts += [text(x.start - 6, y.at(v) + 4, f"{v:g}", "tick end") for v in marks]
    parts += [text(x.at(v), foot + 15, f"{v:.0%}", "tick middle") for v in (0, 0.5, 1)]
    points = sorted(curve.points, key=lambda point: -point.kept)
    parts.append(_path([(x.at(curve.removed(p.kept)), y.at(p.error)) for p in points], ""))
    if z:
        parts += [line(x.start, v, x.stop, v, "grid") for v in (z.start, z.stop)]
        parts += [text(x.start - 6, z.at(v) + 4, f"{v:.2f}", "tick end") for v in (z.low, z.high)]
        parts.append(
            _path([(x.at(curve.removed(p.kept)), z.at(p.score)) for p in points if p.score is not None], "score")
        )
    place = x.at(curve.removed(curve.chosen))
    parts.append(line(place, y.stop, place, foot, "pick"))
    label = f"Error of {curve.name}: {number(curve.half.error)} with {curve.half.kept} of {curve.width} kept"
    return svg(292, foot + 22, label, "".join(parts), "panel")


def _path(places: Sequence[tuple[float, float]], style: str) -> str:
    drawn = " ".join(f"{x:g},{y:g}" for x, y in places)
    dots = "".join(f'<circle class="point {style}" cx="{x:g}" cy="{y:g}" r="3"/>' for x, y in places)
    return f'<polyline class="path {style}" points="{drawn}"/>{dots}'


def _cells(curve: SensitivityCurve, axis: Axis, y: float, score: float | None) -> str:
    """One cell a width that was tried, as far as halfway to its neighbours; the whole group is the first."""
    tried: list[tuple[float, float]] = [(0.0, 0.0)]
    for point in sorted(curve.points, key=lambda point: -point.kept):
        if score is None:
            tried.append((curve.removed(point.kept), point.error))
        elif point.score is not None:
            tried.append((curve.removed(point.kept), score - point.score))
    middles = [(left + right) / 2 for (left, _), (right, _) in pairwise(tried)]
    last = min(1.0, tried[-1][0] + (tried[-1][0] - middles[-1] if middles else 0.0))
    style, edges = ("h", CLASSES) if score is None else ("a", LOSSES)
    parts = []
    for (_, value), left, right in zip(tried, [0.0, *middles], [*middles, last], strict=True):
        shade = shade_class(style, sum(value >= edge for edge in edges))
        width = axis.at(right) - axis.at(left)
        parts.append(
            f'<rect class="cell {shade}" x="{axis.at(left):g}" y="{y + 1}" width="{width:.2f}" height="{_ROW - 2}"/>'
        )
    place, middle = axis.at(curve.removed(curve.chosen)), y + _ROW / 2
    whole = " whole" if curve.chosen == curve.width else ""
    parts.append(f'<path class="chosen{whole}" d="M{place:g} {middle - 5:g}l5 5l-5 5l-5 -5z"/>')
    return "".join(parts)
