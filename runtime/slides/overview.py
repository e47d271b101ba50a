"""A slide as one small picture, made in bounded memory: of a low level, or of the finest in blocks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.progress import Progress, counted
from medfm_compress.runtime.slides.slide import WHITE, Picture, RegionUnreadable, Slide

SIDE_PX = 2048
_BLOCK_PX = 1024
_SMALLEST = 4
"""Cells of the overview: a block that cannot be decoded is quartered until a part is this small."""


class Overview(NamedTuple):
    """A slide made small.

    Attributes:
        picture: uint8 ``[h, w, 3]``, means of the pixels of each cell.
        unread: bool ``[h, w]``, where the slide could not be decoded; white in the picture.
        scale: pixels of level 0 a pixel of it, across and down.
    """

    picture: Picture
    unread: NDArray[np.bool_]
    scale: tuple[float, float]


class _Cells(NamedTuple):
    top: int
    left: int
    height: int
    width: int

    def quarters(self) -> list[_Cells]:
        """The up to four parts of it."""
        down, across = -(-self.height // 2), -(-self.width // 2)
        parts = [
            _Cells(self.top + y, self.left + x, min(down, self.height - y), min(across, self.width - x))
            for y in (0, down)
            for x in (0, across)
        ]
        return [part for part in parts if part.height > 0 and part.width > 0]


def overview(slide: Slide, progress: Progress | None = None) -> Overview:
    """The slide at a longest side of 1024 to 2048 px, or at its own size where it is smaller."""
    number = max((n for n, level in enumerate(slide.levels) if max(level[:2]) >= SIDE_PX // 2), default=0)
    level = slide.levels[number]
    factor = -(-max(level.width, level.height) // SIDE_PX)
    height, width = -(-level.height // factor), -(-level.width // factor)
    made = Overview(
        np.full((height, width, 3), WHITE, np.uint8),
        np.zeros((height, width), np.bool_),
        (slide.levels[0].width / level.width * factor, slide.levels[0].height / level.height * factor),
    )
    side = max(1, _BLOCK_PX // factor)
    corners = [(row, column) for row in range(0, height, side) for column in range(0, width, side)]
    for row, column in counted(corners, "look for tissue", len(corners), progress):
        _fill(made, slide, number, factor, _Cells(row, column, min(side, height - row), min(side, width - column)))
    return made


def _fill(made: Overview, slide: Slide, number: int, factor: int, cells: _Cells) -> None:
    """Read some cells; of those that cannot be read, their quarters."""
    rows, columns = (slice(start, start + size) for start, size in zip(cells[:2], cells[2:], strict=True))
    try:
        made.picture[rows, columns] = _reduced(slide, number, factor, cells)
    except RegionUnreadable:
        if max(cells.height, cells.width) <= _SMALLEST:
            made.unread[rows, columns] = True
            return
        for part in cells.quarters():
            _fill(made, slide, number, factor, part)


def _reduced(slide: Slide, number: int, factor: int, cells: _Cells) -> Picture:
    """Means of ``factor`` × ``factor`` pixels; of fewer at the slide's edges."""
    level = slide.levels[number]
    left, top = cells.left * factor, cells.top * factor
    width, height = min(cells.width * factor, level.width - left), min(cells.height * factor, level.height - top)
    region = slide.read_region(left, top, number, width, height).astype(np.float32)
    down = np.add.reduceat(region, np.arange(0, height, factor), axis=0)
    sums = np.add.reduceat(down, np.arange(0, width, factor), axis=1)
    counts = np.outer(np.diff([*range(0, height, factor), height]), np.diff([*range(0, width, factor), width]))
    picture: Picture = np.rint(sums / counts[..., None]).astype(np.uint8)
    return picture
