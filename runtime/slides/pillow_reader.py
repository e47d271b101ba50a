"""Slides without a library of their own: TIFF tile by tile with Pillow as the parser, other pictures as a whole."""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from medfm_compress.runtime.errors import ImageRefused, refusing
from medfm_compress.runtime.images.size_limits import read_limited
from medfm_compress.runtime.slides.slide import (
    MAX_LEVELS,
    WHITE,
    Picture,
    Slide,
    check_region,
    levels_of,
    plausible_resolution,
)
from medfm_compress.runtime.slides.tiff_page import TiffPage, checked_page
from medfm_compress.runtime.slides.tiff_slide import TiffSlide

_UM = {2: 25_400.0, 3: 10_000.0}
_ASPECT = 0.05


class PictureSlide:
    """See `Slide`: one picture in memory, of one level."""

    backend = "picture"

    def __init__(self, name: str, values: Picture) -> None:
        self.name = name
        self.um_per_px: tuple[float, float] | None = None
        self.levels = levels_of([(values.shape[1], values.shape[0])], name)
        self._values = values

    def read_region(self, x: int, y: int, level: int, width: int, height: int) -> Picture:
        """See `Slide`."""
        check_region(width, height, self.name)
        region = np.full((height, width, 3), WHITE, np.uint8)
        left, top = max(x, 0), max(y, 0)
        part = self._values[top : max(y + height, 0), left : max(x + width, 0)]
        region[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]] = (
            part if part.ndim == 3 else part[..., None]
        )
        return region

    def close(self) -> None:
        """See `Slide`."""

    def __enter__(self) -> PictureSlide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_picture(path: Path) -> Slide:
    """A PNG, JPEG or BMP as a slide, within the limits of any image (`images.size_limits`): it is decoded as a whole.

    Raises:
        ImageRefused: damaged, too large, or of more than 8 bits.
    """
    from medfm_compress.runtime.images.read_raster import decode_raster

    pixels = decode_raster(read_limited(path), path.name)
    if pixels.values.dtype != np.uint8:
        raise ImageRefused(f"{path.name}: {pixels.values.dtype} pixels; a slide has 8-bit grey or RGB")
    return PictureSlide(path.name, pixels.values)


def open_tiff_with_pillow(path: Path) -> Slide:
    """A TIFF or BigTIFF as a slide: its first page, and the later ones that are smaller copies of it.

    Raises:
        ImageRefused: its directories are damaged, or its pixels are of another kind.
    """
    from PIL.TiffImagePlugin import TiffImageFile

    pages: list[TiffPage] = []
    resolution = None
    with refusing(ImageRefused, f"{path.name} is no TIFF file that can be read"), TiffImageFile(path) as image:
        for number in range(MAX_LEVELS):
            try:
                image._seek(number)  # `seek` would refuse what is larger than Pillow decodes as a whole
            except EOFError:
                break
            tags: Any = image.tag_v2
            if not pages:
                pages.append(_page(tags, f"{path.name}, level 0"))
                resolution = _resolution(tags)
            elif _is_reduced(tags, pages[-1]):
                pages.append(_page(tags, f"{path.name}, level {len(pages)}"))
    return TiffSlide(path, pages, resolution, "pillow")


def _is_reduced(tags: Any, last: TiffPage) -> bool:
    width, height = int(tags.get(256, 0)), int(tags.get(257, 0))
    if 322 not in tags or not last.is_tiled or not 0 < width < last.width or not 0 < height < last.height:
        return False
    return abs(math.log((last.width / width) / (last.height / height))) < _ASPECT


def _page(tags: Any, name: str) -> TiffPage:
    width, height = int(tags[256]), int(tags[257])
    tiled = 322 in tags
    offsets, counts = (tags[324], tags[325]) if tiled else (tags[273], tags[279])
    samples = int(tags.get(277, 1))
    page = TiffPage(
        width=width,
        height=height,
        tile_width=int(tags[322]) if tiled else width,
        tile_height=int(tags[323]) if tiled else min(int(tags.get(278, height)), height),
        is_tiled=tiled,
        offsets=np.asarray(offsets, np.int64).reshape(-1),
        counts=np.asarray(counts, np.int64).reshape(-1),
        compression=int(tags.get(259, 1)),
        photometric=int(tags.get(262, 1)),
        predictor=int(tags.get(317, 1)),
        samples=samples,
        jpeg_tables=bytes(tags.get(347, b"")),
    )
    bits = tags.get(258, (8,) * samples)
    return checked_page(page, tuple(bits) if isinstance(bits, tuple) else (int(bits),), int(tags.get(284, 1)), name)


def _resolution(tags: Any) -> tuple[float, float] | None:
    unit = _UM.get(int(tags.get(296, 2)))
    try:
        across, down = float(tags[282]), float(tags[283])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return plausible_resolution(unit / across, unit / down) if unit and across > 0 and down > 0 else None
