"""Where a plane of probabilities, enlarged by Pillow's BILINEAR, is at least 0.5; without enlarging all of it.

    centre c = (i + ½) n / N of pixel i of N over n;   P = Σ_x p_x max(0, 1 − |x + ½ − c|) / Σ of the weights

first along rows, rounded to float32, then along columns. A pixel lies between four of the plane's at most. Where all
four are at least 0.5, so is what is between them (rounding keeps order); where all are below, it is below. Only what
remains, a narrow ring around each region, is computed: of a small answer on a large image a hundredth of the pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_UNDECIDED = 2
_MOST_UNDECIDED = 0.2  # of the cells; beyond it enlarging all is as fast
LEVEL = 0.5


class _Taps(NamedTuple):
    """Of each pixel of a side: first of the two that it lies between, and their weights, float64."""

    cell: NDArray[np.int64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]


def enlarged_mask(plane: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8] | None:
    """``resize(plane) >= 0.5`` as 0 and 1, ``[height, width]``; None where that is no enlargement or gains nothing."""
    h, w = plane.shape
    if not (2 <= h < height and 2 <= w < width):
        return None
    cells = _cells(plane)
    if np.mean(cells == _UNDECIDED) > _MOST_UNDECIDED:
        return None
    rows, columns = _taps(h, height), _taps(w, width)
    mask = cells[:, columns.cell][rows.cell]
    undecided = np.flatnonzero(mask.reshape(-1) == _UNDECIDED)
    if len(undecided):
        y, x = np.divmod(undecided, width)
        mask.reshape(-1)[undecided] = _interpolated(plane, y, x, rows, columns) >= LEVEL
    return mask


def _cells(plane: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Of each square of four neighbours ``[h − 1, w − 1]``: all at least 0.5 (1), all below (0), or undecided (2)."""
    above = plane >= LEVEL
    count = above[:-1].astype(np.uint8) + above[1:]
    count = count[:, :-1] + count[:, 1:]
    cells: NDArray[np.uint8] = np.where(count == 4, 1, np.where(count == 0, 0, _UNDECIDED)).astype(np.uint8)
    return cells


def _taps(small: int, large: int) -> _Taps:
    centre = (np.arange(large) + 0.5) * (small / large)
    cell = np.clip(np.floor(centre - 0.5).astype(np.int64), 0, small - 2)
    first, second = (np.maximum(0.0, 1 - np.abs(cell + shift + 0.5 - centre)) for shift in (0, 1))
    total = first + second
    return _Taps(cell, first / total, second / total)


def _interpolated(
    plane: NDArray[np.float32], y: NDArray[np.int64], x: NDArray[np.int64], rows: _Taps, columns: _Taps
) -> NDArray[np.float32]:
    """Values at the pixels (y, x)."""
    top, left = rows.cell[y], columns.cell[x]
    wide, corner = plane.reshape(-1), top * plane.shape[1] + left
    first, second = columns.first[x], columns.second[x]
    upper, lower = (
        (wide[at].astype(np.float64) * first + wide[at + 1].astype(np.float64) * second).astype(np.float32)
        for at in (corner, corner + plane.shape[1])
    )
    value: NDArray[np.float64] = upper.astype(np.float64) * rows.first[y] + lower.astype(np.float64) * rows.second[y]
    return value.astype(np.float32)
