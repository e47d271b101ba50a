"""PNG, TIFF and BMP masks through Pillow: the stored numbers themselves, nothing scaled, coloured or turned."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.file_types import HEAD_BYTES, raster_format
from medfm_compress.runtime.images.quiet_decoders import decoding
from medfm_compress.runtime.images.size_limits import check_decoded, check_extent, read_limited

_MODES = {"1": np.uint8, "L": np.uint8, "P": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I": np.int32}


def read_mask(path: Path) -> NDArray[np.integer]:
    """Stored values ``[height, width]`` of a mask: uint8, uint16 or int32; of a palette the indices.

    Raises:
        ImageRefused: damaged, too large, of a lossy format, several pages, or in colour.
    """
    from PIL import Image

    data = read_limited(path)
    kind = raster_format(data[:HEAD_BYTES]) or ""
    if kind not in ("PNG", "TIFF", "BMP"):
        raise ImageRefused(
            f"{path.name} is {kind or 'of no known format'}; a mask is a PNG, TIFF or BMP file, which keep every value"
        )
    with decoding(path.name, kind), Image.open(io.BytesIO(data), formats=[kind]) as image:
        check_extent(image.height, image.width, path.name)
        check_decoded(image.height, image.width, 4, path.name)
        if (pages := getattr(image, "n_frames", 1)) != 1:
            raise ImageRefused(f"{path.name} has {pages} pages; a mask has one")
        return _values(image, path.name)


def _values(image: Any, name: str) -> NDArray[np.integer]:
    if image.mode in ("RGB", "RGBA", "LA"):
        planes = np.asarray(image)
        first = planes[..., 0]
        colours = planes[..., : 1 if image.mode == "LA" else 3]
        if (colours == first[..., None]).all():
            return np.ascontiguousarray(first)
        raise ImageRefused(f"{name} is in colour; a mask holds one number a pixel")
    if image.mode not in _MODES:
        raise ImageRefused(f"{name} is a {image.mode} image; a mask holds one whole number a pixel")
    return np.ascontiguousarray(np.asarray(image), dtype=_MODES[image.mode])
