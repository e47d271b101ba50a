"""How far the outlines of two masks lie apart: surface Dice at a tolerance, and the 95th percentile of the distance.

With ∂M the boundary pixels of mask M, those of whose four neighbours one is not in M (what lies outside the image is
not), and d(a, B) the distance from a to the nearest pixel of B, between centres::

    surface Dice   (#{p ∈ ∂P: d(p, ∂T) <= τ} + #{t ∈ ∂T: d(t, ∂P) <= τ}) / (|∂P| + |∂T|)
    HD95           max( q95 {d(p, ∂T): p ∈ ∂P},  q95 {d(t, ∂P): t ∈ ∂T} ) ,   q95 interpolated linearly

Distances are exact. With h(r, x) the distance along row r from column x to the nearest boundary pixel of that row,
d(y, x)² = min over rows r of (y − r)² + h(r, x)²; rows are tried from the nearest outwards and a pixel is done where
(y − r)² alone exceeds what it has, so that masks that are alike take few.

Sources: Nikolov et al., J. Med. Internet Res. 23 (2021) e26151 (surface Dice); Huttenlocher et al., IEEE TPAMI 15
(1993) 850–863, with the 95th percentile as is usual since; the definitions are MONAI's. DeepMind's ``surface-distance``
weighs boundary elements between pixels by their length instead: it differs by a fraction of a pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
_FAR = 1 << 24  # more than any image is wide; its square fits int64
PERCENTILE = 95


class SurfaceDistances(NamedTuple):
    """Distances in pixels from every boundary pixel of one mask to the nearest of the other's.

    Attributes:
        of_predicted: [|∂P|].
        of_truth: [|∂T|].
    """

    of_predicted: Floats
    of_truth: Floats

    def surface_dice(self, tolerance_px: float) -> float:
        """Share of both boundaries that lies within ``tolerance_px`` of the other."""
        near = sum(int((distances <= tolerance_px).sum()) for distances in self)
        return near / (len(self.of_predicted) + len(self.of_truth))

    def hd95(self) -> float:
        """95th percentile of the distances, in pixels, of the side where it is larger."""
        return max(float(np.percentile(distances, PERCENTILE)) for distances in self)


def surface_distances(predicted: Mask, truth: Mask) -> SurfaceDistances | None:
    """Distances of the boundaries of two masks ``[H, W]``; None where a mask is empty."""
    shown = predicted | truth
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    if not len(rows) or not predicted.any() or not truth.any():
        return None
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    first, second = boundary(predicted[box]), boundary(truth[box])
    return SurfaceDistances(_nearest(first, second), _nearest(second, first))


def boundary(mask: Mask) -> Mask:
    """Pixels of ``mask`` ``[H, W]`` that have a neighbour above, below, left or right outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside


def _nearest(points: Mask, targets: Mask) -> Floats:
    """Distance from every pixel of ``points`` to the nearest of ``targets``, which has some."""
    along = _along_rows(targets)
    y, x = np.nonzero(points)
    squares = along[y, x] ** 2
    active, last = np.arange(len(y)), len(along) - 1
    for step in range(1, len(along)):
        active = active[squares[active] > step * step]
        if not len(active):
            break
        rows, columns = y[active], x[active]
        # A row beyond the edge becomes the edge row, which is nearer than ``step`` says: never too small.
        above, below = along[np.maximum(rows - step, 0), columns], along[np.minimum(rows + step, last), columns]
        squares[active] = np.minimum(squares[active], np.minimum(above, below) ** 2 + step * step)
    return np.sqrt(squares)


def _along_rows(targets: Mask) -> NDArray[np.int64]:
    """Distance along its row from every pixel to the nearest of ``targets``; very large in a row without one."""
    column = np.arange(targets.shape[1], dtype=np.int64)
    left = np.maximum.accumulate(np.where(targets, column, -_FAR), axis=1)
    right = np.minimum.accumulate(np.where(targets, column, _FAR)[:, ::-1], axis=1)[:, ::-1]
    return np.minimum(column - left, right - column)
