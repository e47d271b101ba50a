"""Which models nobody beats: no other is both at least as fast and at least as accurate, and better in one of the two.

Where a point lies is an estimate, so the front is one of estimates: where intervals overlap, another is plausible.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Numbers of the points (cost, value) that no other dominates, by rising cost; equal points all stay.

    A point with a NaN is never on the front and dominates nothing.
    """
    usable = [n for n, point in enumerate(points) if all(map(math.isfinite, point))]
    order = sorted(usable, key=lambda n: (points[n][0], -points[n][1]))
    kept: list[int] = []
    for number in order:
        cost, value = points[number]
        if not kept or value > points[kept[-1]][1] or (cost, value) == points[kept[-1]]:
            kept.append(number)
    return tuple(kept)
