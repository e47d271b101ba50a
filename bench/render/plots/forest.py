"""Forest rows: difference and interval on an axis that all rows of a table share, the inferior side hatched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, Protocol

from medfm_compress.bench.render.format import signed
from medfm_compress.bench.render.plots.svg import Axis, line, svg, text, ticks
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import LOWER_IS_BETTER, Metric

FOREST_WIDTH = 232
FOREST_HEIGHT = 30
LEAST_SPAN = 0.01
AxisGroup = Literal["shares", "errors", "log_loss", "distances", "counts"]


class Drawable(Protocol):
    """A difference that has a row: of two models, or of what two models lose."""

    @property
    def metric(self) -> Metric:
        """What is compared."""
        ...

    @property
    def difference(self) -> Interval:
        """Bundle − teacher."""
        ...

    @property
    def margin(self) -> float | None:
        """The policy's, where it has one."""
        ...

    @property
    def too_few(self) -> str:
        """Why there is no interval; empty where there is."""
        ...


def axis_group(metric: Metric) -> AxisGroup:
    """Which metrics share an axis: shares, errors in [0, 1]; what has no upper end has one of its own."""
    own: dict[Metric, AxisGroup] = {
        "log_loss": "log_loss",
        "hd95": "distances",
        "false_positives_per_image": "counts",
    }
    if metric in own:
        return own[metric]
    return "errors" if metric in LOWER_IS_BETTER else "shares"


def forest_range(comparisons: Sequence[Drawable]) -> tuple[float, float]:
    """Common range of the rows: every interval that was computed, every margin, zero, and some air."""
    ends = [0.0]
    for comparison in comparisons:
        if comparison.margin is not None:
            ends.append(_edge(comparison.metric, comparison.margin))
        if not comparison.too_few:
            ends += [value for value in (comparison.difference.low, comparison.difference.high) if math.isfinite(value)]
    low, high = min(ends), max(ends)
    air = 0.08 * max(high - low, LEAST_SPAN)
    return low - air, high + air


def forest_row(comparison: Drawable, span: tuple[float, float], *, reference: float | None = None) -> str:
    """Difference and interval; the region beyond the margin is hatched.

    Args:
        comparison: what to draw.
        span: of the axis.
        reference: margin of all cases, drawn dotted and without hatching where the row has none of its own.
    """
    axis, middle, difference = Axis(*span, 2, FOREST_WIDTH - 2), FOREST_HEIGHT / 2, comparison.difference
    parts = [_margin(comparison, axis, reference), line(axis.at(0), 0, axis.at(0), FOREST_HEIGHT, "zero")]
    label = "not computed"
    if all(math.isfinite(v) for v in (difference.low, difference.high, difference.estimate)):
        left, right = axis.at(difference.low), axis.at(difference.high)
        free = "" if comparison.margin is not None else " free"
        parts.append(line(left, middle, right, middle, f"interval{free}"))
        parts += [line(end, middle - 4, end, middle + 4, f"interval{free}") for end in (left, right)]
        parts.append(f'<circle class="dot{free}" cx="{axis.at(difference.estimate)}" cy="{middle:g}" r="3.6"/>')
        label = f"{signed(difference.estimate)}, {signed(difference.low)} to {signed(difference.high)}"
    return svg(FOREST_WIDTH, FOREST_HEIGHT, label, "".join(parts), "forest")


def forest_axis(span: tuple[float, float], *, errors: bool = False) -> str:
    """The scale over a column of forest rows, and which side is worse."""
    axis = Axis(*span, 2, FOREST_WIDTH - 2)
    worse, better = ("worse →", "← better") if errors else ("← worse", "better →")
    zero = axis.at(0)
    left, right = (better, worse) if errors else (worse, better)
    parts = []
    if zero > 56:
        parts.append(text(zero - 5, 9, left, "side end"))
    if FOREST_WIDTH - zero > 56:
        parts.append(text(zero + 5, 9, right, "side"))
    for tick in ticks(*span):
        place = axis.at(tick)
        if 14 < place < FOREST_WIDTH - 14:
            parts.append(text(place, 22, signed(tick, _digits(span)), "tick middle"))
            parts.append(line(place, 25, place, 29, "grid"))
    return svg(FOREST_WIDTH, 30, "scale of the differences", "".join(parts), "forest")


def _edge(metric: Metric, margin: float) -> float:
    """Where the inferior region begins: below zero, for errors above it."""
    return margin if metric in LOWER_IS_BETTER else -margin


def _margin(comparison: Drawable, axis: Axis, reference: float | None) -> str:
    if comparison.margin is None:
        if reference is None:
            return ""
        edge = axis.at(_edge(comparison.metric, reference))
        return line(edge, 0, edge, FOREST_HEIGHT, "reference")
    edge = axis.at(_edge(comparison.metric, comparison.margin))
    start, stop = (edge, FOREST_WIDTH - 2) if comparison.metric in LOWER_IS_BETTER else (2, edge)
    return (
        f'<rect class="inferior" x="{start:g}" y="0" width="{max(stop - start, 0):.2f}" height="{FOREST_HEIGHT}"/>'
        + line(edge, 0, edge, FOREST_HEIGHT, "margin")
    )


def _digits(span: tuple[float, float]) -> int:
    """Decimals that tell neighbouring ticks apart."""
    steps = ticks(*span)
    step = steps[1] - steps[0] if len(steps) > 1 else LEAST_SPAN
    return max(1, min(4, math.ceil(-math.log10(step) - 1e-9)))
