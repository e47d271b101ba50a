"""Outlines of a mask as polygons along the edges of its pixels, which enclose exactly its pixels.

Every side of a pixel whose neighbour is not of the mask is an edge, directed so that the mask lies to its right (rows
grow downwards). At a corner where two pixels of the mask touch diagonally, the outline goes on around the other one, so
that what touches at a corner is one region, as in `regions`. Rings around a region are clockwise, those around a hole
in it counter-clockwise: Σ of their signed areas is the area of the mask.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.int64]
"""``[n, 2]``: x, y of corners in pixels of the image, where (0, 0) is the outer corner of the first pixel."""
_STEPS = np.array(((1, 0), (0, 1), (-1, 0), (0, -1)))  # right, down, left, up, as x and y


def contours(shown: NDArray[np.bool_]) -> tuple[Ring, ...]:
    """Rings of the True pixels of ``[H, W]``, in reading order of their first corners; corners only."""
    if not shown.any():
        return ()
    x, y, direction = _edges(shown)
    following = _following(x, y, direction, shown)
    rings, left = [], np.ones(len(x), bool)
    order = np.lexsort((x, y))
    ahead = following.tolist()
    for first in order.tolist():
        if not left[first]:
            continue
        ring, at = [], first
        while left[at]:
            left[at] = False
            ring.append(at)
            at = ahead[at]
        turned = direction[ring] != direction[np.roll(ring, 1)]
        kept = np.asarray(ring)[turned]
        rings.append(np.stack([x[kept], y[kept]], axis=1))
    return tuple(rings)


def signed_area(ring: Ring) -> float:
    """Area that a ring encloses in pixels, negative around a hole."""
    x, y = ring[:, 0], ring[:, 1]
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _edges(shown: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """First corner (x, y) and direction of every edge."""
    framed = np.pad(shown, 1)
    inside = framed[1:-1, 1:-1]
    parts = []
    for number, (neighbour, corner) in enumerate(
        (
            (framed[:-2, 1:-1], (0, 0)),  # above: to the right, from the upper left corner
            (framed[1:-1, 2:], (1, 0)),  # right: down, from the upper right
            (framed[2:, 1:-1], (1, 1)),  # below: to the left, from the lower right
            (framed[1:-1, :-2], (0, 1)),  # left: up, from the lower left
        )
    ):
        rows, columns = np.nonzero(inside & ~neighbour)
        parts.append((columns + corner[0], rows + corner[1], np.full(len(rows), number)))
    x, y, direction = (np.concatenate(column).astype(np.int64) for column in zip(*parts, strict=True))
    return x, y, direction


def _following(
    x: NDArray[np.int64], y: NDArray[np.int64], direction: NDArray[np.int64], shown: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Number of the edge that each goes on with: turning left where it can (around what touches at a corner)."""
    stride = shown.shape[1] + 1
    key = (y * stride + x) * 4 + direction
    order = np.argsort(key)
    ordered = key[order]
    ends = (y + _STEPS[direction, 1]) * stride + x + _STEPS[direction, 0]
    following = np.full(len(x), -1)
    for turn in (3, 0, 1):  # left, straight on, right
        wanted = ends * 4 + (direction + turn) % 4
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        found = (following < 0) & (ordered[place] == wanted)
        following[found] = order[place[found]]
    return following
