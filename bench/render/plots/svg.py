"""What every drawing of the report is made of: axes, lines, text and marks as plain SVG strings, styled by the page.

Every series carries a class ``s0`` … ``s5`` (colour) and differs in dash or shape as well, so that the drawings
survive a black-and-white printer and a colour-blind reader.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import NamedTuple

from medfm_compress.bench.render.format import printable, short_hashes

SERIES = 6


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


def series_class(index: int) -> str:
    """Class of the ``index``-th series; the teacher is 0."""
    return f"s{min(index, SERIES - 1)}"


def mark(x: float, y: float, index: int, *, hollow: bool = False, size: float = 5.0) -> str:
    """The mark of a series; the shape alone tells which: square, disc, triangle, diamond, tipped triangle, hexagon."""
    style = f"mark-{'hollow' if hollow else 'solid'} {series_class(index)}"
    corners = {
        0: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.25), (1.2, 0.95), (-1.2, 0.95)),
        3: ((0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0)),
        4: ((0, 1.25), (1.2, -0.95), (-1.2, -0.95)),
        5: ((-0.6, -1.1), (0.6, -1.1), (1.2, 0), (0.6, 1.1), (-0.6, 1.1), (-1.2, 0)),
    }.get(min(index, SERIES - 1))
    if corners is None:
        return f'<circle class="{style}" cx="{x:g}" cy="{y:g}" r="{1.05 * size:g}"/>'
    points = "L".join(f"{x + size * dx:.1f} {y + size * dy:.1f}" for dx, dy in corners)
    return f'<path class="{style}" d="M{points}Z"/>'


def key(index: int, *, hollow: bool = False) -> str:
    """The mark of a series, to stand in running text or a table."""
    return f'<svg class="key" viewBox="0 0 14 14" aria-hidden="true">{mark(7, 7, index, hollow=hollow, size=4.4)}</svg>'


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most about ``most`` round numbers in [``low``, ``high``]."""
    rough = max(high - low, 1e-6) / max(most - 1, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten in [``low``, ``high``]."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [step * 10.0**power for power in powers for step in (1, 2, 5) if low <= step * 10.0**power <= high]


def log_grid(axis: Axis, top: float, bottom: float) -> str:
    """Upright grid lines with their values under them."""
    parts = []
    for value in log_ticks(axis.low, axis.high):
        place = axis.at(value)
        parts.append(line(place, top, place, bottom, "grid"))
        parts.append(text(place, bottom + 16, f"{value:g}", "tick middle"))
    return "".join(parts)


def unit_grid(x: Axis, y: Axis) -> str:
    """Quarters of the unit square."""
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(line(x.at(tick), y.at(0), x.at(tick), y.at(1), "grid"))
        parts.append(line(x.at(0), y.at(tick), x.at(1), y.at(tick), "grid"))
        parts.append(text(x.at(tick), y.start + 15, f"{tick:g}", "tick middle"))
        parts.append(text(x.start - 6, y.at(tick) + 4, f"{tick:g}", "tick end"))
    return "".join(parts)


def dots(places: Iterable[tuple[float, float]], style: str) -> str:
    """Round dots as one path: a stroke of no length with round ends, a tenth of the bytes of a circle each."""
    path = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
    return f'<path class="{style}" d="{path}"/>' if path else ""


def crosses(places: Iterable[tuple[float, float]], style: str, size: float = 2.2) -> str:
    """Upright crosses as one path."""
    path = "".join(f"M{x - size:.1f} {y:.1f}h{2 * size:g}M{x:.1f} {y - size:.1f}v{2 * size:g}" for x, y in places)
    return f'<path class="{style}" d="{path}"/>' if path else ""


def line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    """A straight line of class ``style``."""
    return f'<line class="{style}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>'


def text(x: float, y: float, words: str, style: str) -> str:
    """Words, escaped."""
    return f'<text class="{style}" x="{x:g}" y="{y:g}">{_escaped(words)}</text>'


def upright(x: float, y: float, words: str) -> str:
    """The label of a vertical axis."""
    return f'<text class="axis middle" transform="translate({x:g} {y:g}) rotate(-90)">{_escaped(words)}</text>'


def svg(width: float, height: float, title: str, body: str, style: str) -> str:
    """The whole drawing; ``title`` is what a screen reader says of it."""
    return (
        f'<svg class="{style}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-label="{_escaped(title)}">{body}</svg>'
    )


def _escaped(text: str) -> str:
    """``text`` as text or attribute value, control characters dropped and hashes shortened."""
    return html.escape(short_hashes(printable(text)), quote=True)
