"""Regions of a label map: pixels of one structure that touch each other, at sides or corners (8 neighbours).

Rows are cut into runs of equal pixels. A run touches those of the row above that begin at its end + 1 at the latest and
end at its beginning − 1 at the earliest; the smallest number of a run travels along what touches (union by pointer
jumping), until nothing changes.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

LabelMap = NDArray[np.uint8]
Integers = NDArray[np.int64]


class Region(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A connected region of one structure.

    Attributes:
        area_px: pixels.
        top: first row.
        left: first column.
        bottom: row behind the last.
        right: column behind the last.
        row: of its centre of mass.
        column: likewise.
        area_mm2: where the distance of pixels is known.
    """

    area_px: int
    top: int
    left: int
    bottom: int
    right: int
    row: float
    column: float
    area_mm2: float | None = None


class Runs(NamedTuple):
    """Runs of one structure in reading order: row, first column, column behind the last; and the region of each."""

    row: Integers
    start: Integers
    end: Integers
    region: Integers


def find_runs(shown: NDArray[np.bool_]) -> Runs:
    """Runs of the True pixels of ``[H, W]`` and the region, from 0 in reading order, that each belongs to."""
    height, width = shown.shape
    framed = np.zeros((height, width + 2), np.int8)
    framed[:, 1:-1] = shown
    change = np.diff(framed.reshape(-1))
    begins, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
    row, start = np.divmod(begins, width + 2)
    return Runs(row, start, ends - row * (width + 2), _regions_of(row, start, ends - row * (width + 2), width))


def regions_of(shown: NDArray[np.bool_], area_of_px_mm2: float | None = None) -> tuple[Region, ...]:
    """Regions of the True pixels of ``[H, W]``, the largest first."""
    runs = find_runs(shown)
    if not len(runs.row):
        return ()
    count = int(runs.region.max()) + 1
    length = runs.end - runs.start
    area = np.bincount(runs.region, length, count)
    rows = np.bincount(runs.region, length * runs.row, count) / area
    middle = np.bincount(runs.region, length * (runs.start + runs.end - 1) / 2, count) / area
    top, left = _extreme(np.minimum, runs.row, runs, count), _extreme(np.minimum, runs.start, runs, count)
    bottom, right = _extreme(np.maximum, runs.row + 1, runs, count), _extreme(np.maximum, runs.end, runs, count)
    return tuple(
        Region(
            area_px=int(area[i]),
            top=int(top[i]),
            left=int(left[i]),
            bottom=int(bottom[i]),
            right=int(right[i]),
            row=float(rows[i]),
            column=float(middle[i]),
            area_mm2=None if area_of_px_mm2 is None else float(area[i]) * area_of_px_mm2,
        )
        for i in np.lexsort((np.arange(count), -area))
    )


def _extreme(choose: np.ufunc, values: Integers, runs: Runs, count: int) -> Integers:
    """Least or greatest of ``values`` of the runs of each region."""
    order = np.argsort(runs.region, kind="stable")
    firsts = np.searchsorted(runs.region[order], np.arange(count))
    result: Integers = choose.reduceat(values[order], firsts)
    return result


def _regions_of(row: Integers, start: Integers, end: Integers, width: int) -> Integers:
    """Region of each run, numbered from 0 in reading order of their first runs."""
    stride = width + 2
    above = (row - 1) * stride
    low = np.searchsorted(row * stride + end, above + start, side="left")
    high = np.searchsorted(row * stride + start, above + end, side="right")
    touching = np.maximum(high - low, 0)
    below = np.repeat(np.arange(len(row)), touching)
    offset = np.arange(touching.sum()) - np.repeat(np.cumsum(touching) - touching, touching)
    smallest = _union(below, np.repeat(low, touching) + offset, len(row))
    return np.unique(smallest, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _union(a: Integers, b: Integers, count: int) -> Integers:
    """Smallest number of each of ``count`` items' set, where ``a[i]`` and ``b[i]`` are in one."""
    parent = np.arange(count)
    while True:
        roots_a, roots_b = parent[a], parent[b]
        differ = roots_a != roots_b
        if not differ.any():
            return parent
        a, b, roots_a, roots_b = a[differ], b[differ], roots_a[differ], roots_b[differ]
        np.minimum.at(parent, np.maximum(roots_a, roots_b), np.minimum(roots_a, roots_b))
        while not np.array_equal(jumped := parent[parent], parent):
            parent = jumped
