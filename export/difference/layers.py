"""Error of every layer in the whole network, and error that the layer creates by itself.

With a and b the values in the two networks, and f_A, f_B the layer's parts alone, both on A's own inputs x_A:

    error   = ‖b − a‖ / ‖a‖                          inherited from the layers before, and created
    created = ‖f_B(x_A) − f_A(x_A)‖ / ‖f_A(x_A)‖

Differences that rounding explains are none. Two engines add in different orders: 2e-5 in float32. Where the value is
rounded in steps s, a sum near the middle between two steps goes either way: one value in a hundred may be a step off,

    floor = √0.01 · s / rms(f_A)

Inputs are fed before they are rounded, on B's steps already, so that a difference in rounding counts once, where the
value is made. Where both files round an input to different numbers it is fed behind the rounding, to both.

Where a part alone is not what the whole network computes, an engine fuses it with what makes its inputs (a sum with the
convolution before it): then the part takes that in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.difference.alignment import Point
from medfm_compress.export.difference.exposed import ExposedNetwork, relative
from medfm_compress.export.difference.graph import Array, Grid, Network, Part, Run
from medfm_compress.export.difference.result import FUSED
from medfm_compress.runtime.errors import InputError

FLOAT_FLOOR = 2e-5
_MAY_BE_A_STEP_OFF = 0.01
_AT_ONCE = 24  # values that are held at a time
_MOST_WIDENED = 16  # parts, since each is two more runs of the whole networks


class Measured(NamedTuple):
    """One point over all cases; see `result.LayerDifference` for the figures."""

    point: Point
    error: float
    created: float | None
    floor: float
    steps: float | None
    saturated: tuple[float | None, float | None]
    alone: tuple[float, float]
    note: str
    wide: bool = False


class Parts:
    """The parts of both networks between matched values."""

    def __init__(self, a: Network, b: Network, points: Sequence[Point]) -> None:
        """Cut where ``points`` are, behind the rounding of those that both round to different numbers."""
        self.networks = (a, b)
        self._of: tuple[dict[str, Point], dict[str, Point]] = ({}, {})
        for point in points:
            behind = _round_differently(point, a, b)
            for own, network, known in zip((point.a, point.b), self.networks, self._of, strict=True):
                known[own] = point
                if behind:
                    known[network.topology.pairs[own].rounded] = point

    def parts(self, point: Point) -> tuple[Part, Part]:
        """The part of each network that makes ``point``."""
        a, b = self.networks
        return a.topology.part(point.a, self._of[0]), b.topology.part(point.b, self._of[1])

    def needed(self, parts: tuple[Part, Part]) -> list[Point]:
        """Points whose values in A the parts get."""
        fed = [known[name] for part, known in zip(parts, self._of, strict=True) for name in part.inputs]
        return list(dict.fromkeys(fed))

    def feeds(
        self, point: Point, parts: tuple[Part, Part], values: Mapping[Point, Array], case: Array, *, shared: bool = True
    ) -> list[dict[str, Array]]:
        """The inputs of each part that makes ``point``, from ``values``; what rounds the image gets the image.

        Values that both networks get (``shared``) are on the steps that either reads them in.
        """
        give = self._shared if shared else self._own
        return [
            {name: case if known[name] == point else give(known[name], values) for name in part.inputs}
            for part, known in zip(parts, self._of, strict=True)
        ]

    def _own(self, point: Point, values: Mapping[Point, Array]) -> Array:
        return values[point]

    def _shared(self, point: Point, values: Mapping[Point, Array]) -> Array:
        a, b = self.networks
        grid = a.topology.grid(point.a) or b.topology.grid(point.b)
        if _round_differently(point, a, b) or grid is None:
            return values[point]
        return grid.snap(values[point])


def measure(a: ExposedNetwork, b: ExposedNetwork, points: Sequence[Point], cases: Array) -> Iterator[Measured]:
    """Figures of every point that an operator makes or a file rounds, in order.

    Args:
        a: the reference.
        b: the other.
        points: from `alignment.align`, in order.
        cases: network inputs ``[n, C, H, W]``.
    """
    cutter = Parts(a.network, b.network, points)
    made = [point for point in points if any(part.nodes for part in cutter.parts(point))]
    widened = 0
    for start in range(0, len(made), _AT_ONCE):
        for measured in _measure(a, b, made[start : start + _AT_ONCE], cutter, cases):
            fused = max(measured.alone) > max(measured.floor, FUSED) and widened < _MOST_WIDENED
            widened += fused
            yield _with_neighbours(a, b, measured, points, cases) if fused else measured


def wider(a: Network, b: Network, points: Sequence[Point], point: Point) -> Parts:
    """Parts in which that of ``point`` takes in what makes its inputs, for engines that fuse the two."""
    cutter = Parts(a, b, points)
    joined = [need for need in cutter.needed(cutter.parts(point)) if need.a not in a.topology.inputs]
    return Parts(a, b, [other for other in points if other not in joined or other == point])


def _with_neighbours(
    a: ExposedNetwork, b: ExposedNetwork, measured: Measured, points: Sequence[Point], cases: Array
) -> Measured:
    """``measured`` on the wider part, if that one alone is what the whole network computes."""
    cutter = wider(a.network, b.network, points, measured.point)
    (wide,) = _measure(a, b, [measured.point], cutter, cases)
    return wide._replace(wide=True) if max(wide.alone) <= max(wide.floor, FUSED) and not wide.note else measured


def _measure(
    a: ExposedNetwork, b: ExposedNetwork, points: Sequence[Point], cutter: Parts, cases: Array
) -> Iterator[Measured]:
    parts = {point: cutter.parts(point) for point in points}
    wanted = list(dict.fromkeys([*points, *(need for pair in parts.values() for need in cutter.needed(pair))]))
    run_a, run_b = a.open([point.a for point in wanted]), b.open([point.b for point in wanted])
    tallies = {point: _Tally(point, a.network, b.network, pair) for point, pair in parts.items()}
    for number in range(len(cases)):
        case = cases[number : number + 1]
        values = dict(zip(wanted, run_a({a.network.topology.inputs[0]: case}), strict=True))
        others = dict(zip(wanted, run_b({b.network.topology.inputs[0]: case}), strict=True))
        for point in points:
            feeds = cutter.feeds(point, parts[point], values, case)
            feeds.append(cutter.feeds(point, parts[point], values, case, shared=False)[0])
            feeds.append(cutter.feeds(point, parts[point], others, case, shared=False)[1])
            tallies[point].add(values[point], others[point], feeds)
    for point in points:
        yield tallies[point].result()


class _Tally:
    """Sums of one point over the cases."""

    def __init__(self, point: Point, a: Network, b: Network, parts: tuple[Part, Part]) -> None:
        self._point = point
        self._runs: tuple[Run, Run] = (a.cut(parts[0]), b.cut(parts[1]))
        self.grids = (a.topology.grid(point.a), b.topology.grid(point.b))
        self._step = max((grid.step for grid in self.grids if grid is not None), default=0.0)
        self._error, self._created = np.zeros(2), np.zeros(2)  # squares of differences and of the reference
        self._largest, self._alone = 0.0, (0.0, 0.0)
        self._count, self._cases, self._saturated, self._note = 0, 0, np.zeros(2), ""

    def add(self, a: Array, b: Array, feeds: list[dict[str, Array]]) -> None:
        """One case: values in the whole networks; A's inputs for both parts, and each one's own."""
        if a.shape != b.shape:
            self._note = f"shapes differ: {a.shape} and {b.shape}"
            return
        self._cases += 1
        self._error += _squares(b, a)
        self._largest = max(self._largest, float(np.abs(b - a).max(initial=0)))
        self._saturated += [grid.saturated(v) if grid else 0.0 for grid, v in zip(self.grids, (a, b), strict=True)]
        if self._note:
            return
        try:
            alone = [run(feed)[0] for run, feed in zip(self._runs * 2, feeds, strict=True)]
        except InputError as exc:
            self._note = str(exc)
            return
        self._created += _squares(alone[1], alone[0])
        self._count += alone[0].size
        self._alone = max(self._alone[0], relative(alone[2], a)), max(self._alone[1], relative(alone[3], b))

    def result(self) -> Measured:
        """Over all cases so far."""
        shares = [
            float(total) / max(self._cases, 1) if grid else None
            for grid, total in zip(self.grids, self._saturated, strict=True)
        ]
        rms = float(np.sqrt(self._created[1] / max(self._count, 1)))
        rounding = np.sqrt(_MAY_BE_A_STEP_OFF) * self._step / rms if rms else 0.0
        return Measured(
            point=self._point,
            error=_quotient(self._error) if self._cases else float("inf"),
            created=None if self._note else _quotient(self._created),
            floor=max(FLOAT_FLOOR, float(rounding)),
            steps=self._largest / self._step if self._step else None,
            saturated=(shares[0], shares[1]),
            alone=self._alone,
            note=self._note,
        )


def _squares(values: Array, reference: Array) -> NDArray[np.float64]:
    if values.shape != reference.shape:
        return np.array([np.inf, 1.0])
    difference = values.astype(np.float64) - reference
    return np.array([np.square(difference).sum(), np.square(reference.astype(np.float64)).sum()])


def _quotient(squares: NDArray[np.float64]) -> float:
    if not np.isfinite(squares).all():
        return float("inf")
    return float(np.sqrt(squares[0] / max(squares[1], 1e-60)))


def _round_differently(point: Point, a: Network, b: Network) -> bool:
    pairs = a.topology.pairs.get(point.a), b.topology.pairs.get(point.b)
    if pairs[0] is None or pairs[1] is None:
        return False
    grids = [grid for pair in pairs if pair is not None for grid in (pair.grid, pair.written)]
    return not all(_same(grids[0], grid) for grid in grids)


def _same(one: Grid | None, other: Grid | None) -> bool:
    return one is not None and other is not None and one.same(other)
