"""The tiles of a slide at one resolution, and which of them show tissue.

A tile shows ``width_px`` × ``height_px`` pixels of the network at ``tile_um_per_px``. It is divided into cells, and the
step from one tile to the next is a whole number of them, so that every cell of the maps belongs to the same part of
each tile that shows it. Tiles begin at the upper left; the last ones may reach beyond the slide, into white.
Of a spec that crops its centre, what is read is larger than what is shown, by a margin on every side.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.slides.overview import Overview
from medfm_compress.runtime.slides.settings import SlideSettings
from medfm_compress.runtime.slides.slide import Picture, Slide
from medfm_compress.runtime.slides.tissue import grown, tissue_mask

_SAME = 0.01
_COARSER = 1.1
_SHOWN_AROUND = 2  # cells of the overview
"""A slide may be this much coarser than the network's resolution: 0.25 µm is 0.2522 or 0.27 to some scanners."""


class Box(NamedTuple):
    """Part of a slide in pixels of level 0."""

    x: int
    y: int
    width: int
    height: int


class Tiling(NamedTuple):
    """All tiles of a slide.

    Attributes:
        rows, columns: of tiles.
        cells: (down, across) of a tile.
        step: cells from a tile to the next, (down, across).
        side: of a tile in pixels of level 0, (down, across).
        margin: what is read over what is shown, 1 or more.
        level: that is read.
        extent: height and width of level 0.
    """

    rows: int
    columns: int
    cells: tuple[int, int]
    step: tuple[int, int]
    side: tuple[float, float]
    margin: float
    level: int
    extent: tuple[int, int]

    @property
    def cell_side(self) -> tuple[float, float]:
        """Pixels of level 0 a cell, (down, across)."""
        return self.side[0] / self.cells[0], self.side[1] / self.cells[1]

    @property
    def map_shape(self) -> tuple[int, int]:
        """Cells that show any of the slide, (down, across)."""
        down, across = (math.ceil(e / c - 1e-6) for e, c in zip(self.extent, self.cell_side, strict=True))
        return down, across

    def box(self, row: int, column: int) -> Box:
        """What a tile shows, cut off at the slide's edges."""
        top, left = row * self.step[0] * self.cell_side[0], column * self.step[1] * self.cell_side[1]
        bottom, right = min(top + self.side[0], self.extent[0]), min(left + self.side[1], self.extent[1])
        return Box(round(left), round(top), round(right) - round(left), round(bottom) - round(top))

    def read(self, slide: Slide, row: int, column: int) -> Picture:
        """What the network is given of a tile, before its preprocessing; white beyond the slide.

        Raises:
            RegionUnreadable: a part of it cannot be decoded.
        """
        across, down = slide.levels[self.level].downsample
        height, width = self.side[0] / down * self.margin, self.side[1] / across * self.margin
        top = (row * self.step[0] * self.cell_side[0] - self.side[0] * (self.margin - 1) / 2) / down
        left = (column * self.step[1] * self.cell_side[1] - self.side[1] * (self.margin - 1) / 2) / across
        return slide.read_region(round(left), round(top), self.level, max(1, round(width)), max(1, round(height)))


def make_tiling(slide: Slide, um_per_px: tuple[float, float], spec: ImageSpec, settings: SlideSettings,
                cells: tuple[int, int]) -> Tiling:  # fmt: skip
    """The tiles of ``slide``, whose level 0 has ``um_per_px`` (across, down).

    Raises:
        ImageRefused: the slide is coarser than the network's resolution.
        InputError: the bundle was trained at another resolution than the settings'.
    """
    _check_trained_at(spec, settings)
    reduction = [settings.tile_um_per_px / own for own in um_per_px]  # across, down
    if min(reduction) < 1 / _COARSER:
        raise ImageRefused(
            f"{slide.name} has {max(um_per_px):g} µm a pixel and the tiles are to have {settings.tile_um_per_px:g}; a "
            "slide is never enlarged: give one that was scanned finer"
        )
    side = (spec.height_px * reduction[1], spec.width_px * reduction[0])
    step = tuple(max(1, round(count * (1 - settings.overlap))) for count in cells)
    extent = (slide.levels[0].height, slide.levels[0].width)
    rows, columns = (
        1 + max(0, math.ceil((e - s) / (s / c * p) - 1e-6))
        for e, s, c, p in zip(extent, side, cells, step, strict=True)
    )
    levels = [
        number
        for number, level in enumerate(slide.levels)
        if all(own <= wanted * 1.001 for own, wanted in zip(level.downsample, reduction, strict=True))
    ]
    return Tiling(
        rows, columns, cells, (step[0], step[1]), side, 1 / spec.crop_fraction, max(levels, default=0), extent
    )


def _check_trained_at(spec: ImageSpec, settings: SlideSettings) -> None:
    """Raises InputError where the bundle says at which resolution it was trained, and the settings say another."""
    if not spec.tiles or spec.tiles.mm_per_px is msgspec.UNSET:
        return
    trained = 1000 * spec.tiles.mm_per_px
    if abs(settings.tile_um_per_px / trained - 1) > _SAME:
        raise InputError(
            f"tile_um_per_px is {settings.tile_um_per_px:g} and the bundle was trained at {trained:g} µm a pixel; "
            "write that into the settings"
        )


def tissue_tiles(tiling: Tiling, seen: Overview, settings: SlideSettings) -> NDArray[np.int64]:
    """Numbers (row · columns + column) of the tiles to be read, in order.

    A tile of which the overview could not be read counts as tissue there: what nobody saw is not taken for glass.
    """
    if settings.tissue == "everything":
        return np.arange(tiling.rows * tiling.columns, dtype=np.int64)
    mask = tissue_mask(seen.picture, seen.unread) | seen.unread
    sums = np.pad(np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1), ((1, 0), (1, 0)))
    tops, bottoms = _edges(tiling, 0, seen.scale[1], mask.shape[0])
    lefts, rights = _edges(tiling, 1, seen.scale[0], mask.shape[1])
    counts = (
        sums[np.ix_(bottoms, rights)] - sums[np.ix_(tops, rights)]
        - sums[np.ix_(bottoms, lefts)] + sums[np.ix_(tops, lefts)]
    )  # fmt: skip
    shares = counts / np.outer(bottoms - tops, rights - lefts)
    return np.flatnonzero((shares >= settings.min_tissue) & (counts > 0)).astype(np.int64)


def shown_tissue(seen: Overview, settings: SlideSettings) -> NDArray[np.bool_] | None:
    """Where an overlay may be coloured: tissue and a little around it; None where everything is read as tissue."""
    return None if settings.tissue == "everything" else grown(tissue_mask(seen.picture, seen.unread), _SHOWN_AROUND)


def _edges(tiling: Tiling, axis: int, scale: float, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last pixel of the overview that each row (axis 0) or column of tiles shows."""
    count = (tiling.rows, tiling.columns)[axis]
    starts = np.arange(count) * tiling.step[axis] * tiling.cell_side[axis]
    ends = np.minimum(starts + tiling.side[axis], tiling.extent[axis])
    first = np.minimum(np.floor(starts / scale).astype(np.int64), size - 1)
    return first, np.clip(np.ceil(ends / scale).astype(np.int64), first + 1, size)
