"""Write a slide of JPEG tiles larger than memory, as scanners do: a pyramidal BigTIFF, one tile in memory at a time."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medfm_compress.runtime.slides.pyramid_file import TILE_PX, TileFormat, write_pyramid

Picture = NDArray[np.uint8]
_QUALITY = 85


def _encode(tile: Picture) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(tile)).save(stream, "JPEG", quality=_QUALITY, subsampling=2)
    return stream.getvalue()


def _decode(data: bytes) -> Picture:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


JPEG = TileFormat(
    (TILE_PX, TILE_PX, 3), {258: (8, 8, 8), 259: (7,), 262: (6,), 277: (3,), 284: (1,), 530: (2, 2)}, _encode, _decode
)


def write_jpeg_slide(
    path: Path, shape: tuple[int, int], tile_of: Callable[[int, int], Picture], um_per_px: float
) -> None:
    """A slide of ``shape`` (height, width); ``tile_of`` (row, column) gives uint8 ``[256, 256, 3]``."""
    write_pyramid(
        path, shape, tile_of, _halve, um_per_px=(um_per_px, um_per_px), description="synthetic slide", form=JPEG
    )


def _halve(block: Picture) -> Picture:
    four = block.reshape(TILE_PX, 2, TILE_PX, 2, 3).astype(np.uint16)
    return np.asarray((four.sum(axis=(1, 3)) + 2) // 4, np.uint8)
