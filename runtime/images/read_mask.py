"""PNG, TIFF and BMP masks through Pillow: the stored numbers themselves, nothing scaled or coloured.

Like an image, a mask is turned as its own EXIF orientation says, so that it lies on the image as that is read.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.completeness import check_chunks, check_parts, check_rows, check_scans, check_tiff
from medfm_compress.runtime.images.file_types import HEAD_BYTES, kind_of, raster_format
from medfm_compress.runtime.images.libtiff_errors import tiff_errors
from medfm_compress.runtime.images.quiet_decoders import decoding
from medfm_compress.runtime.images.size_limits import check_decoded, check_extent, read_limited

_MODES = {"1": np.uint8, "L": np.uint8, "P": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I": np.int32}
_COLOURS = ("RGB", "RGBA", "LA")
_BYTES = {"1": 1, "L": 1, "P": 1, "LA": 2, "I;16": 2, "I;16B": 2, "RGB": 3}
_LOSSLESS = (
    *("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "lzma", "zstd", "tiff_ccitt", "group3"),
    *("group4", "tiff_raw_16"),
)
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_CONVERT = "'medfm-compress study masks' converts it"


def read_mask(path: Path) -> NDArray[np.integer]:
    """Stored values ``[height, width]`` of a mask: uint8, uint16 or int32; of a palette the indices.

    Raises:
        ImageRefused: damaged, too large, of a lossy format, several pages, transparent, or in colour.
    """
    data = read_limited(path)
    kind = raster_format(data[:HEAD_BYTES]) or ""
    if kind not in ("PNG", "TIFF", "BMP"):
        raise ImageRefused(_refusal(path.name, kind, data))
    image = open_mask(data, kind, path.name)
    return _values(image, path.name)


def read_colours(path: Path, *, lossy: bool = False) -> NDArray[np.int32]:
    """Colours ``[height, width]`` of a mask as whole numbers 0xRRGGBB; grey ones have three equal bytes.

    Args:
        path: a PNG, TIFF or BMP file.
        lossy: also a JPEG file.

    Raises:
        ImageRefused: as `read_mask`, but for the colour.
    """
    data = read_limited(path)
    kind = raster_format(data[:HEAD_BYTES]) or ""
    if kind not in ("PNG", "TIFF", "BMP") and not (lossy and kind == "JPEG"):
        raise ImageRefused(_refusal(path.name, kind, data))
    image = open_mask(data, kind, path.name)
    if image.mode not in ("1", "L", "P", *_COLOURS):
        raise ImageRefused(f"{path.name} is a {image.mode} image, which has no colours of 8 bits")
    if "A" in image.mode and image.getchannel("A").getextrema() != (255, 255):
        raise ImageRefused(f"{path.name} is transparent in places; flatten it")
    planes = np.asarray(image.convert("RGB")).astype(np.int32)
    packed: NDArray[np.int32] = planes[..., 0] << 16 | planes[..., 1] << 8 | planes[..., 2]
    return packed


def open_mask(data: bytes, kind: str, name: str) -> Any:
    """The decoded Pillow image of a mask, upright; every pixel of it was in the file.

    Raises:
        ImageRefused: damaged, too large, lossy TIFF, several pages, or more than 8 bits a colour.
    """
    from PIL import Image, ImageOps

    check_parts(data, kind, name)
    with decoding(name, kind), Image.open(io.BytesIO(data), formats=[kind]) as image:
        check_extent(image.height, image.width, name)
        check_decoded(image.height, image.width, _BYTES.get(image.mode, 4), name)
        if (pages := getattr(image, "n_frames", 1)) != 1:
            raise ImageRefused(f"{name} has {pages} pages; a mask has one")
        if kind == "PNG":
            check_chunks(data, name)
            check_rows(data, name)
            if data[24] > 8 and image.mode in _COLOURS:  # IHDR: width, height, bit depth; Pillow drops the low byte
                raise ImageRefused(f"{name} has {data[24]} bits a colour; save it with one number a pixel")
        if kind == "TIFF":
            _check_tiff(image, name)
        if kind == "JPEG":
            check_scans(data, image.height, image.width, name)
        with tiff_errors() as errors:
            image.load()
        if errors.count:
            raise ImageRefused(f"{name}: the pixels of the TIFF file are damaged; export the mask again")
        return ImageOps.exif_transpose(image)


def _refusal(name: str, kind: str, data: bytes) -> str:
    if kind == "JPEG":
        return (
            f"{name} is a JPEG file, whose edges are blurred into values that nobody drew; 'medfm-compress study "
            "masks' with --nearest makes a PNG of it"
        )
    if kind_of(data[:HEAD_BYTES]) == "dicom":
        return f"{name} is a DICOM file; {_CONVERT} to a PNG where it is a segmentation"
    return f"{name} is of no known format; a mask is a PNG, TIFF or BMP file, which keep every value"


def _check_tiff(image: Any, name: str) -> None:
    compression = image.info.get("compression", "raw")
    if compression not in _LOSSLESS:
        raise ImageRefused(f"{name} is a TIFF file of {compression} compression; save the mask without loss, as PNG")
    if image.mode != "1" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        raise ImageRefused(f"{name} is a TIFF file whose 0 is white, so that its numbers are in doubt; save it as PNG")
    check_tiff(image, name)


def _values(image: Any, name: str) -> NDArray[np.integer]:
    if image.mode in _COLOURS:
        planes = np.asarray(image)
        if image.mode != "RGB" and planes[..., -1].min() < planes[..., -1].max():
            raise ImageRefused(f"{name} is transparent in places; flatten it: a mask holds one number a pixel")
        first = planes[..., 0]
        if (planes[..., : 1 if image.mode == "LA" else 3] == first[..., None]).all():
            return np.ascontiguousarray(first)
        raise ImageRefused(
            f"{name} is in colour; a mask holds one number a pixel. {_CONVERT}: --structure NAME=#RRGGBB"
        )
    if image.mode not in _MODES:
        raise ImageRefused(f"{name} is a {image.mode} image; a mask holds one whole number a pixel")
    return np.ascontiguousarray(np.asarray(image), dtype=_MODES[image.mode])
