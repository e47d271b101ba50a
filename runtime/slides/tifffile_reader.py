"""tifffile reads the directories of a TIFF, OME-TIFF or BigTIFF; tiles are decoded one by one in `tiff_page`."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from medfm_compress.runtime.errors import ImageRefused, in_one_line, refusing
from medfm_compress.runtime.slides.slide import MAX_LEVELS, Slide, plausible_resolution
from medfm_compress.runtime.slides.tiff_page import TiffPage, checked_page
from medfm_compress.runtime.slides.tiff_slide import TiffSlide

_UM = {2: 25_400.0, 3: 10_000.0}
_ASPECT = 0.05


def open_with_tifffile(path: Path) -> Slide:
    """The slide at ``path``: its largest picture of 8-bit grey or RGB, and the smaller ones of it.

    Raises:
        ImageRefused: its directories are damaged or run in circles, or it holds no such picture.
    """
    import tifffile

    with refusing(ImageRefused, f"{path.name} is no TIFF file that can be read"), tifffile.TiffFile(path) as file:
        levels = _levels(file, path.name)
        pages = [_page(level, f"{path.name}, level {number}") for number, level in enumerate(levels)]
        um_per_px = _resolution(levels[0], file.ome_metadata)
    return TiffSlide(path, pages, um_per_px, "tifffile")


def _levels(file: Any, name: str) -> list[Any]:
    """Pages of the largest picture, the finest first."""
    pictures = [series for series in file.series if set(series.axes) <= set("YXS") and {*"YX"} <= set(series.axes)]
    if not pictures:
        raise ImageRefused(f"{name} holds no single picture of 8-bit grey or RGB; export one plane of it")
    largest = max(pictures, key=lambda series: _area(series.keyframe))
    levels = [level.keyframe for level in largest.levels[:MAX_LEVELS]]
    if len(levels) == 1:  # a pyramid of pages that follow each other is several series to tifffile
        levels += [series.keyframe for series in pictures if _is_reduced(series.keyframe, levels[0])]
    levels.sort(key=_area, reverse=True)
    return levels[:MAX_LEVELS]


def _area(page: Any) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _is_reduced(page: Any, full: Any) -> bool:
    """Whether a page is a smaller copy: tiled as slides are (labels and thumbnails are not), of the same shape."""
    if page is full or not page.is_tiled or not full.is_tiled or _area(page) >= _area(full):
        return False
    across, down = full.imagewidth / page.imagewidth, full.imagelength / page.imagelength
    return bool(abs(math.log(across / down)) < _ASPECT)


def _page(page: Any, name: str) -> TiffPage:
    if getattr(page, "is_memmappable", None) is None and not hasattr(page, "dataoffsets"):
        raise ImageRefused(f"{name} has no pixels")
    tiled = bool(page.is_tiled)
    bits = page.bitspersample if isinstance(page.bitspersample, tuple) else (int(page.bitspersample),)
    rows = min(int(page.rowsperstrip or page.imagelength), int(page.imagelength))
    made = TiffPage(
        width=int(page.imagewidth),
        height=int(page.imagelength),
        tile_width=int(page.tilewidth) if tiled else int(page.imagewidth),
        tile_height=int(page.tilelength) if tiled else rows,
        is_tiled=tiled,
        offsets=np.asarray(page.dataoffsets, np.int64),
        counts=np.asarray(page.databytecounts, np.int64),
        compression=int(page.compression),
        photometric=int(page.photometric),
        predictor=int(page.predictor),
        samples=int(page.samplesperpixel),
        jpeg_tables=bytes(page.jpegtables or b""),
    )
    return checked_page(made, bits, int(page.planarconfig), name)


def _resolution(page: Any, ome: str | None) -> tuple[float, float] | None:
    """Micrometres a pixel: of the OME description, of Aperio's, or of the resolution tags."""
    stated = _of_ome(ome or "") or _of_aperio(page)
    if stated:
        return plausible_resolution(*stated)
    unit = _UM.get(int(page.resolutionunit))
    try:
        across, down = (float(value) for value in page.resolution)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return plausible_resolution(unit / across, unit / down) if unit and across > 0 and down > 0 else None


def _of_ome(text: str) -> tuple[float, float] | None:
    """``PhysicalSizeX`` and ``Y`` of the first image; found as text, since XML of strangers is not parsed."""
    sizes = []
    for axis in "XY":
        size = re.search(rf'PhysicalSize{axis}="([0-9.eE+-]{{1,30}})"', text)
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]{{1,10}})"', text)
        if not size or (unit and unit[1] not in ("µm", "um", "μm", "&#181;m")):
            return None
        try:
            sizes.append(float(size[1]))
        except ValueError:
            return None
    return sizes[0], sizes[1]


def _of_aperio(page: Any) -> tuple[float, float] | None:
    text = in_one_line(page.description[:2000]) if isinstance(page.description, str) else ""
    size = re.search(r"\bMPP ?= ?([0-9.]{1,20})", page.description[:4000]) if text.startswith("Aperio") else None
    try:
        return (float(size[1]), float(size[1])) if size else None
    except ValueError:
        return None
