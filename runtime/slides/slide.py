"""What a reader of slides gives: levels, resolution, regions."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused

Picture = NDArray[np.uint8]

MAX_SIDE_PX = 2_000_000
MAX_LEVELS = 32
MAX_REGION_PIXELS = 64_000_000
WHITE = 255
_MPP = (0.01, 20.0)
"""Micrometres a pixel of any microscope; a TIFF of 72 or 300 dots an inch says nothing of its slide."""


class Level(NamedTuple):
    """One resolution of a slide.

    Attributes:
        width: pixels.
        height: pixels.
        downsample: pixels of level 0 a pixel, across and down.
    """

    width: int
    height: int
    downsample: tuple[float, float]


class RegionUnreadable(ImageRefused):
    """Part of a slide that cannot be decoded; the rest of it may still be read."""


class Slide(Protocol):
    """An open slide; safe to read from several threads.

    Attributes:
        name: of its file.
        backend: what reads it.
        levels: the finest first.
        um_per_px: of level 0, across and down; None where the file does not say.
    """

    name: str
    backend: str
    levels: tuple[Level, ...]
    um_per_px: tuple[float, float] | None

    def read_region(self, x: int, y: int, level: int, width: int, height: int) -> Picture:
        """uint8 ``[height, width, 3]`` from (x, y) in pixels of ``level``; white outside of the slide.

        Raises:
            RegionUnreadable: a part of it cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Give back what is open."""
        ...

    def __enter__(self) -> Slide: ...

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def levels_of(sizes: list[tuple[int, int]], name: str) -> tuple[Level, ...]:
    """Levels of (width, height), the finest first.

    Raises:
        ImageRefused: no level, a side that no slide has, or more levels than any pyramid.
    """
    if not sizes or len(sizes) > MAX_LEVELS:
        raise ImageRefused(f"{name}: {len(sizes)} levels; a slide has 1 to {MAX_LEVELS}")
    for width, height in sizes:
        if min(width, height) < 1 or max(width, height) > MAX_SIDE_PX:
            raise ImageRefused(f"{name}: a level of {width}×{height} px; sides of 1 to {MAX_SIDE_PX} px are allowed")
    full_width, full_height = sizes[0]
    return tuple(Level(width, height, (full_width / width, full_height / height)) for width, height in sizes)


def plausible_resolution(across: float, down: float) -> tuple[float, float] | None:
    """Micrometres a pixel, or None where no microscope has that resolution."""
    return (across, down) if all(_MPP[0] <= value <= _MPP[1] for value in (across, down)) else None


def check_region(width: int, height: int, name: str) -> None:
    """Refuse a region that nobody means to hold in memory.

    Raises:
        ImageRefused: it has no pixels or more than ``MAX_REGION_PIXELS``.
    """
    if min(width, height) < 1 or width * height > MAX_REGION_PIXELS:
        raise ImageRefused(
            f"{name}: a region of {width}×{height} px; at most {MAX_REGION_PIXELS // 1_000_000} megapixels are read at "
            "once: choose another resolution"
        )
