"""Drawings of what the models cost: latency call by call, stages of one prediction, latency against accuracy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medfm_compress.bench.render.format import milliseconds
from medfm_compress.bench.render.model_names import shortened
from medfm_compress.bench.render.pareto_points import ParetoPoint
from medfm_compress.bench.render.plots.svg import Axis, line, log_grid, mark, series_class, svg, text, ticks, upright
from medfm_compress.bench.stats.pareto_front import front

DOTS = 160
_NAMES_END, _WIDTH, _STEP = 190, 900, 42
_NAME_ROOM, _LONGEST_NAME = 220, 32


class Samples(NamedTuple):
    """One row of the latency drawing."""

    name: str
    values_ms: Sequence[float]
    series: int


class Stages(NamedTuple):
    """One row of the stage drawing: stage → median in ms, in the order in which they run."""

    name: str
    medians_ms: dict[str, float]


def latency_plot(rows: Sequence[Samples], *, title: str) -> str:
    """One row a model on a logarithmic axis: dots, 5–95% line, box of the middle half, median bar, p99 diamond."""
    top = 8
    values = [value for row in rows for value in row.values_ms]
    low, high = min(values) / 1.15, max(float(np.quantile(row.values_ms, 0.995)) for row in rows) * 1.15
    axis = Axis(low, high, _NAMES_END + 16, _WIDTH - 14, log=True)
    bottom = top + _STEP * len(rows)
    parts = [log_grid(axis, top, bottom)]
    for place, row in enumerate(rows):
        middle = top + _STEP * place + _STEP / 2
        parts.append(text(_NAMES_END, middle + 4, row.name, "row-name end"))
        parts.append(_latency_row(row, axis, middle))
    parts.append(text((axis.start + axis.stop) / 2, bottom + 36, "latency in ms, logarithmic", "axis middle"))
    return svg(_WIDTH, bottom + 44, title, "".join(parts), "latency")


def stage_plot(rows: Sequence[Stages], *, title: str) -> str:
    """Stacked bars on a linear axis; each stage has a fill pattern of its own, named inside the bar where it fits."""
    top, step = 8, 34
    names = list(dict.fromkeys(stage for row in rows for stage in row.medians_ms))
    longest = max(sum(row.medians_ms.values()) for row in rows)
    axis = Axis(0, longest * 1.12, _NAMES_END + 16, _WIDTH - 14)
    bottom = top + step * len(rows)
    parts = []
    for tick in ticks(0, longest * 1.12, 7):
        parts += [
            line(axis.at(tick), top, axis.at(tick), bottom, "grid"),
            text(axis.at(tick), bottom + 16, f"{tick:g}", "tick middle"),
        ]
    for place, row in enumerate(rows):
        middle, start = top + step * place + step / 2, 0.0
        parts.append(text(_NAMES_END, middle + 4, row.name, "row-name end"))
        for stage, value in row.medians_ms.items():
            left, right = axis.at(start), axis.at(start + value)
            parts.append(stage_box(names.index(stage), left, middle - 9, right - left, 18))
            start += value
        parts.append(text(axis.at(start) + 6, middle + 4, f"{milliseconds(start)} ms", "value"))
    parts.append(text((axis.start + axis.stop) / 2, bottom + 36, "median of each stage in ms", "axis middle"))
    return svg(_WIDTH, bottom + 44, title, "".join(parts), "drawing stages")


def stage_box(index: int, x: float, y: float, width: float, height: float) -> str:
    """A box in the ``index``-th stage's grey and pattern."""
    place = f'x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" height="{height:g}"'
    pattern = f'<rect class="stage-pattern p{index % 4}" {place}/>'
    return f'<rect class="stage t{index % 4}" {place}/>{pattern}'


def pareto_plot(pareto_points: Sequence[ParetoPoint], *, title: str, merit: str = "AUROC") -> str:
    """``merit`` over median latency (logarithmic), intervals both ways, the front as a step line."""
    width, height, left, foot = 900, 380, 64, 330
    x_axis, y_axis = _pareto_axes(pareto_points, left, width, foot)
    parts = [log_grid(x_axis, y_axis.stop, foot)]
    for tick in ticks(y_axis.low, y_axis.high):
        place = y_axis.at(tick)
        parts += [line(left, place, x_axis.stop, place, "grid"), text(left - 8, place + 4, f"{tick:.3g}", "tick end")]
    best = front([(point.latency_ms.estimate, point.merit.estimate) for point in pareto_points])
    parts.append(_front_line([pareto_points[number] for number in best], x_axis, y_axis))
    labels = _label_heights([(x_axis.at(c.latency_ms.estimate), y_axis.at(c.merit.estimate)) for c in pareto_points])
    for number, point in enumerate(pareto_points):
        parts.append(_marked_point(point, x_axis, y_axis, beaten=number not in best))
    for number, point in enumerate(pareto_points):  # Over all marks and lines.
        parts.append(_label(point, x_axis, y_axis, beaten=number not in best, label_y=labels[number]))
    words = "median latency of the session in ms, logarithmic"
    parts += [text((left + x_axis.stop) / 2, foot + 38, words, "axis middle"), upright(14, foot / 2 + 6, merit)]
    return svg(width, height, title, "".join(parts), "drawing pareto")


def _pareto_axes(pareto_points: Sequence[ParetoPoint], left: float, width: float, foot: float) -> tuple[Axis, Axis]:
    times = [v for c in pareto_points for v in (c.latency_ms.low, c.latency_ms.high, c.latency_ms.estimate)]
    areas = [v for c in pareto_points for v in (c.merit.low, c.merit.high, c.merit.estimate)]
    times, areas = ([v for v in values if math.isfinite(v)] for values in (times, areas))
    air = 0.12 * max(max(areas) - min(areas), 0.01)
    # Names stand to the right of their marks: room for that of the slowest.
    x_axis = Axis(min(t for t in times if t > 0) / 1.3, max(times) * 1.1, left, width - _NAME_ROOM, log=True)
    return x_axis, Axis(max(min(areas) - air, 0.0), min(max(areas) + air, 1.0), foot, 14)


def _front_line(best: Sequence[ParetoPoint], x_axis: Axis, y_axis: Axis) -> str:
    """Steps from the fastest to the slowest: what AUROC one can have at most within a given time."""
    if not best:
        return ""
    points = [(x_axis.at(best[0].latency_ms.estimate), y_axis.start)]
    for point in best:
        x, y = x_axis.at(point.latency_ms.estimate), y_axis.at(point.merit.estimate)
        points += [(x, points[-1][1]), (x, y)]
    points.append((x_axis.stop, points[-1][1]))
    drawn = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline class="front" points="{drawn}"/>'


def _marked_point(point: ParetoPoint, x_axis: Axis, y_axis: Axis, *, beaten: bool) -> str:
    x, y = x_axis.at(point.latency_ms.estimate), y_axis.at(point.merit.estimate)
    style, parts = f"error {series_class(point.series)}", []
    time, area = point.latency_ms, point.merit
    if math.isfinite(time.high):
        parts.append(line(x_axis.at(time.low), y, x_axis.at(time.high), y, style))
    if math.isfinite(area.low) and math.isfinite(area.high):
        low, high = y_axis.at(area.low), y_axis.at(area.high)
        parts.append(line(x, low, x, high, style))
        parts += [line(x - 4, end, x + 4, end, style) for end in (low, high)]
    parts.append(mark(x, y, point.series, hollow=point.hollow, size=6))
    if beaten:  # Struck out, so that no colour is needed to see it.
        parts.append(line(x - 10, y + 10, x + 10, y - 10, "dominated"))
    return "".join(parts)


def _label(point: ParetoPoint, x_axis: Axis, y_axis: Axis, *, beaten: bool, label_y: float) -> str:
    x, y = x_axis.at(point.latency_ms.estimate), y_axis.at(point.merit.estimate)
    far = abs(label_y - y) > 12
    leader = line(x + 7, y + (4 if label_y > y else -4), x + 13, label_y, "leader") if far else ""
    return leader + text(
        x + 14, label_y + 4, shortened(point.name, _LONGEST_NAME), "row-name dim" if beaten else "row-name"
    )


def _label_heights(places: Sequence[tuple[float, float]], room: float = 15, reach: float = 210) -> list[float]:
    """Heights of the labels beside the points: each is pushed down until it covers no other label and no point."""
    heights = [0.0] * len(places)
    done: list[tuple[float, float]] = []
    for number in sorted(range(len(places)), key=lambda n: places[n][1]):
        x, height = places[number]
        height -= 14
        marks = [(other, mark_y) for other, mark_y in places if 0 < abs(other - x) < reach]
        while any(abs(x - other) < reach and abs(height - taken) < room for other, taken in (*done, *marks)):
            height += 1
        heights[number] = height
        done.append((x, height))
    return heights


def _latency_row(row: Samples, axis: Axis, middle: float) -> str:
    values = np.asarray(row.values_ms, dtype=np.float64)
    p5, p25, p50, p75, p95, p99 = (axis.at(float(v)) for v in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95, 0.99]))
    shown = values[np.linspace(0, len(values) - 1, min(DOTS, len(values))).astype(np.int64)]
    # Dots in the order of time, spread over a fixed zigzag: the same picture for the same report.
    calls = [
        f'<circle cx="{axis.at(float(v))}" cy="{middle + ((i * 7) % 13 - 6) * 0.9:.1f}" r="1.3"/>'
        for i, v in enumerate(shown)
    ]
    box = f'<rect x="{p25}" y="{middle - 7}" width="{max(p75 - p25, 1.5):.2f}" height="14" rx="2"/>'
    diamond = f'<path class="p99" d="M{p99} {middle - 5}l4.5 5l-4.5 5l-4.5 -5z"/>'
    value = text(p50, middle - 11, milliseconds(float(np.median(values))), "value middle")
    marks = line(p5, middle, p95, middle, "whisker") + box + line(p50, middle - 9, p50, middle + 9, "median")
    return f'<g class="{series_class(row.series)}"><g class="dots">{"".join(calls)}</g>{marks}{diamond}</g>{value}'
