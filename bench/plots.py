"""Small SVG drawings for the report: curves, latency rows, forest rows. Plain strings, styled by the page's classes.

Every series carries a class ``s0`` … ``s5`` (colour) and differs in dash or height as well, so that the drawings
survive a black-and-white printer and a colour-blind reader.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medfm_compress.bench.curves import Curve
from medfm_compress.bench.html_text import esc, milliseconds, signed
from medfm_compress.bench.types import Interval

SERIES = 6
DOTS = 160
FOREST_WIDTH = 232
FOREST_HEIGHT = 30


class Axis(NamedTuple):
    """Maps ``low`` … ``high`` to the pixels ``start`` … ``stop``, on a logarithmic scale where ``log``."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def at(self, value: float) -> float:
        """Pixel position of ``value``, clipped to the axis."""
        low, high, value = (math.log(max(v, 1e-9)) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start), 2)


class Series(NamedTuple):
    """One model's curve, and where its decisions stand on it (none without decisions)."""

    name: str
    curve: Curve
    point: tuple[float, float] | None
    series: int


class Samples(NamedTuple):
    """One row of the latency drawing."""

    name: str
    values_ms: Sequence[float]
    series: int


def series_class(index: int) -> str:
    """Class of the ``index``-th series; the teacher is 0."""
    return f"s{min(index, SERIES - 1)}"


def curve_plot(series: Sequence[Series], *, title: str, x_label: str, y_label: str, diagonal: bool = False) -> str:
    """Curves on the unit square with their operating points as ringed dots."""
    x, y = Axis(0, 1, 46, 306), Axis(0, 1, 270, 10)
    parts = [_unit_grid(x, y)]
    if diagonal:
        parts.append(_line(x.at(0), y.at(0), x.at(1), y.at(1), "chance"))
    for item in series:
        parts.append(_polyline(item.curve, x, y, item.series))
    for item in series:
        if item.point:
            parts.append(_operating_point(x.at(item.point[0]), y.at(item.point[1]), item.series))
    parts.append(_text((x.start + x.stop) / 2, 304, x_label, "axis middle"))
    parts.append(f'<text class="axis middle" transform="translate(11 140) rotate(-90)">{esc(y_label)}</text>')
    return _svg(316, 310, title, "".join(parts), "curve")


def latency_plot(rows: Sequence[Samples], *, title: str) -> str:
    """One row a model on a logarithmic axis: dots, 5–95% line, box of the middle half, median bar, p99 diamond."""
    top, step, width = 8, 42, 900
    values = [value for row in rows for value in row.values_ms]
    low, high = min(values) / 1.15, max(float(np.quantile(row.values_ms, 0.995)) for row in rows) * 1.15
    axis = Axis(low, high, 206, width - 14, log=True)
    bottom = top + step * len(rows)
    parts = [_log_grid(axis, top, bottom)]
    for place, row in enumerate(rows):
        middle = top + step * place + step / 2
        parts.append(_text(190, middle + 4, row.name, "row-name end"))
        parts.append(_latency_row(row, axis, middle))
    parts.append(_text((axis.start + axis.stop) / 2, bottom + 36, "latency in ms, logarithmic", "axis middle"))
    return _svg(width, bottom + 44, title, "".join(parts), "latency")


def forest_range(differences: Sequence[Interval], margins: Sequence[float]) -> tuple[float, float]:
    """Common range of the forest rows of one table: every interval and margin, zero, and some air."""
    ends = [0.0, *(-margin for margin in margins)]
    for interval in differences:
        ends += [value for value in (interval.low, interval.high) if math.isfinite(value)]
    low, high = min(ends), max(ends)
    air = 0.08 * max(high - low, 0.01)
    return low - air, high + air


def forest_row(difference: Interval, margin: float | None, span: tuple[float, float]) -> str:
    """Difference and interval on the table's common axis; the region beyond the margin is hatched."""
    axis, middle = Axis(*span, 2, FOREST_WIDTH - 2), FOREST_HEIGHT / 2
    parts = []
    if margin is not None:
        edge = axis.at(-margin)
        parts.append(f'<rect class="inferior" x="2" y="0" width="{edge - 2:.2f}" height="{FOREST_HEIGHT}"/>')
        parts.append(_line(edge, 0, edge, FOREST_HEIGHT, "margin"))
    parts.append(_line(axis.at(0), 0, axis.at(0), FOREST_HEIGHT, "zero"))
    label = "not computed"
    if all(math.isfinite(v) for v in (difference.low, difference.high, difference.estimate)):
        left, right = axis.at(difference.low), axis.at(difference.high)
        style = "interval" if margin is not None else "interval free"
        parts.append(_line(left, middle, right, middle, style))
        parts += [_line(end, middle - 4, end, middle + 4, style) for end in (left, right)]
        dot = "dot" if margin is not None else "dot free"
        parts.append(f'<circle class="{dot}" cx="{axis.at(difference.estimate)}" cy="{middle}" r="3.6"/>')
        label = f"{signed(difference.estimate)}, {signed(difference.low)} to {signed(difference.high)}"
    return _svg(FOREST_WIDTH, FOREST_HEIGHT, label, "".join(parts), "forest")


def forest_axis(span: tuple[float, float]) -> str:
    """The scale under (or over) a column of forest rows."""
    axis = Axis(*span, 2, FOREST_WIDTH - 2)
    step = _nice_step(span[1] - span[0])
    first = math.ceil(span[0] / step)
    parts = []
    for tick in range(first, math.floor(span[1] / step) + 1):
        place = axis.at(tick * step)
        if 12 < place < FOREST_WIDTH - 12:
            parts.append(_text(place, 10, signed(tick * step, 3 if step < 0.01 else 2), "tick middle"))
            parts.append(_line(place, 13, place, 17, "grid"))
    return _svg(FOREST_WIDTH, 18, "scale of the differences", "".join(parts), "forest")


def _latency_row(row: Samples, axis: Axis, middle: float) -> str:
    values = np.asarray(row.values_ms, dtype=np.float64)
    p5, p25, p50, p75, p95, p99 = (axis.at(float(v)) for v in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95, 0.99]))
    shown = values[np.linspace(0, len(values) - 1, min(DOTS, len(values))).astype(np.int64)]
    # Dots in the order of time, spread over a fixed zigzag: the same picture for the same report.
    dots = [
        f'<circle cx="{axis.at(float(v))}" cy="{middle + ((i * 7) % 13 - 6) * 0.9:.1f}" r="1.3"/>'
        for i, v in enumerate(shown)
    ]
    box = f'<rect x="{p25}" y="{middle - 7}" width="{max(p75 - p25, 1.5):.2f}" height="14" rx="2"/>'
    diamond = f'<path class="p99" d="M{p99} {middle - 5}l4.5 5l-4.5 5l-4.5 -5z"/>'
    value = _text(p50, middle - 11, milliseconds(float(np.median(values))), "value middle")
    marks = _line(p5, middle, p95, middle, "whisker") + box + _line(p50, middle - 9, p50, middle + 9, "median")
    return f'<g class="{series_class(row.series)}"><g class="dots">{"".join(dots)}</g>{marks}{diamond}</g>{value}'


def _log_grid(axis: Axis, top: float, bottom: float) -> str:
    parts = []
    for power in range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1):
        for step in (1, 2, 5):
            value = step * 10.0**power
            if axis.low <= value <= axis.high:
                place = axis.at(value)
                parts.append(_line(place, top, place, bottom, "grid"))
                parts.append(_text(place, bottom + 16, f"{value:g}", "tick middle"))
    return "".join(parts)


def _unit_grid(x: Axis, y: Axis) -> str:
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(_line(x.at(tick), y.at(0), x.at(tick), y.at(1), "grid"))
        parts.append(_line(x.at(0), y.at(tick), x.at(1), y.at(tick), "grid"))
        parts.append(_text(x.at(tick), 285, f"{tick:g}", "tick middle"))
        parts.append(_text(40, y.at(tick) + 4, f"{tick:g}", "tick end"))
    return "".join(parts)


def _polyline(curve: Curve, x: Axis, y: Axis, index: int) -> str:
    points = " ".join(f"{x.at(float(a))},{y.at(float(b))}" for a, b in zip(curve.x, curve.y, strict=True))
    return f'<polyline class="line {series_class(index)}" points="{points}"/>'


def _operating_point(x: float, y: float, index: int) -> str:
    return f'<g class="point {series_class(index)}"><circle class="halo" cx="{x}" cy="{y}" r="6.5"/>' + (
        f'<rect x="{x - 3.6:.2f}" y="{y - 3.6:.2f}" width="7.2" height="7.2"/></g>'
        if index == 0
        else f'<circle cx="{x}" cy="{y}" r="4"/></g>'
    )


def _nice_step(span: float) -> float:
    rough = max(span, 1e-6) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line class="{style}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x}" y="{y}">{esc(text)}</text>'


def _svg(width: float, height: float, title: str, body: str, style: str) -> str:
    return (
        f'<svg class="{style}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{esc(title)}">{body}</svg>'
    )
