"""Readers of slides: which of them opens a file, and why not the ones before it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.file_types import HEAD_BYTES, raster_format, refusal_of
from medfm_compress.runtime.regular_file import open_regular
from medfm_compress.runtime.slides.openslide_reader import open_with_openslide, openslide_format
from medfm_compress.runtime.slides.pillow_reader import open_picture, open_tiff_with_pillow
from medfm_compress.runtime.slides.slide import Slide
from medfm_compress.runtime.slides.tifffile_reader import open_with_tifffile

INSTALL = "pip install 'medfm-compress[slides]'"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_GENERIC = "generic-tiff"


class Reader(NamedTuple):
    """One way to read slides.

    Attributes:
        name: as `--reader` and results have it.
        obstacle: (path, first bytes) → why it is not the one for this file; empty where it is.
        open: opens the file.
    """

    name: str
    obstacle: Callable[[Path, bytes], str]
    open: Callable[[Path], Slide]


def _openslide_obstacle(path: Path, head: bytes) -> str:
    if importlib.util.find_spec("openslide") is None:
        return f"OpenSlide is not installed: {INSTALL}"
    vendor = openslide_format(path)
    if not vendor:
        return "OpenSlide knows no slide of this form"
    if vendor == _GENERIC and not _tifffile_obstacle(path, head):
        return "a plain TIFF, of which tifffile's way tells damaged tiles"
    return ""


def _tifffile_obstacle(path: Path, head: bytes) -> str:
    if importlib.util.find_spec("tifffile") is None:
        return f"tifffile is not installed: {INSTALL}"
    return "" if head.startswith(_TIFF) else "no TIFF file"


def _pillow_tiff_obstacle(path: Path, head: bytes) -> str:
    return "" if head.startswith(_TIFF) else "no TIFF file"


def _picture_obstacle(path: Path, head: bytes) -> str:
    if head.startswith(_TIFF):
        return "a TIFF file"
    return "" if raster_format(head) else refusal_of(head)


READERS = (
    Reader("openslide", _openslide_obstacle, open_with_openslide),
    Reader("tifffile", _tifffile_obstacle, open_with_tifffile),
    Reader("pillow", _pillow_tiff_obstacle, open_tiff_with_pillow),
    Reader("picture", _picture_obstacle, open_picture),
)


def open_slide(path: str | Path, *, reader: str = "") -> Slide:
    """Open a slide with the first reader of `READERS` that can, or with the one that is named.

    Raises:
        ImageRefused: no file, a folder or device, or no reader opens it; with the reason of each.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            head = file.read(HEAD_BYTES)
    except (OSError, ValueError) as exc:
        raise ImageRefused(f"{path.name}: {getattr(exc, 'strerror', None) or exc}; give the file of a slide") from None
    reasons = []
    for candidate in READERS:
        if reader and candidate.name != reader:
            continue
        reason = candidate.obstacle(path, head)
        if not reason or (reader and "not installed" not in reason):
            return candidate.open(path)
        reasons.append(f"{candidate.name}: {reason}")
    if not reasons:
        raise ImageRefused(f"there is no reader {reader!r}; choose one of {', '.join(r.name for r in READERS)}")
    raise ImageRefused(f"{path.name} is no slide that can be read ({'; '.join(reasons)})")
