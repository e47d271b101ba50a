"""PNG, JPEG, TIFF and BMP through Pillow, at their own bit depth."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused, MissingDependency
from medfm_compress.runtime.images.completeness import (
    check_chunks,
    check_parts,
    check_rows,
    check_scans,
    check_tiff,
    has_end,
    lacks_scans,
    with_noise_behind_scans,
)
from medfm_compress.runtime.images.file_types import HEAD_BYTES, raster_format
from medfm_compress.runtime.images.libtiff_errors import tiff_errors
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.images.quiet_decoders import decoding
from medfm_compress.runtime.images.size_limits import check_decoded, check_extent

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's own opener of each format. Image.open() would first import five formats, which takes longer than decoding.
_OPENERS = MappingProxyType(
    {
        "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
        "JPEG": ("PIL.JpegImagePlugin", "jpeg_factory"),
        "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
        "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    }
)
_ORIENTATION = 0x0112  # EXIF 2.32, 4.6.4; XMP has it as tiff:Orientation
_XMP_ORIENTATION = re.compile(rb"""tiff:Orientation=["'](\d)["']|<tiff:Orientation>(\d)<""")
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_WHITE_IS_ZERO = 0
_MID_GREY = 128
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_CONVERSIONS = {"L": "L", "RGB": "RGB", "P": "RGB", "YCbCr": "RGB"}
_WITH_ALPHA = {"LA": "L", "La": "L", "RGBA": "RGB", "RGBa": "RGB", "PA": "RGB"}
_REFUSED_MODES = {
    "1": "a 1-bit image, which is a mask or a fax",
    "CMYK": "a CMYK image, which is made for print and has no one conversion to RGB",
    "I": "a 32-bit or signed integer image",
    "F": "a 32-bit float image",
}


def decode_raster(data: bytes, name: str) -> Pixels:
    """Decode a PNG, JPEG, TIFF or BMP file.

    Args:
        data: the whole file.
        name: what to call it in an error.

    Returns:
        uint8 grey or RGB, or uint16 grey; turned upright as its EXIF orientation says.

    Raises:
        ImageRefused: damaged, truncated, too large, several pages, transparent, or a pixel type that would lose bits.
        MissingDependency: Pillow cannot be imported.
    """
    kind = raster_format(data[:HEAD_BYTES]) or ""
    opener = _opener(kind)
    with decoding(name, kind):
        return _decode(data, kind, opener, name)


def _decode(data: bytes, kind: str, opener: Callable[[io.BytesIO], Image], name: str) -> Pixels:
    from PIL import ImageOps

    check_parts(data, kind, name)
    with opener(io.BytesIO(data)) as image:  # reads only the header
        check_extent(image.height, image.width, name)
        check_decoded(image.height, image.width, _bytes_per_pixel(image), name)
        _refuse_pages(image, name)
        _refuse_deep_colour(image, data, kind, name)
        bits, inverted = _tiff_depth(image, kind)
        if kind == "TIFF":
            check_tiff(image, name)
        if kind == "JPEG":
            check_scans(data, image.height, image.width, name)
        _load(image, data, kind, name)
        if kind == "JPEG":
            _check_jpeg(data, image, opener, name)
        _check_orientation(image, name)
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in _SIXTEEN_BIT:
            return _sixteen_bit(image, bits, inverted=inverted)
        return Pixels.from_integers(np.asarray(_eight_bit(image, name)))


def _check_orientation(image: Image, name: str) -> None:
    """Refuse an image of which EXIF and XMP say different orientations, each of which turns it otherwise."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    found = _XMP_ORIENTATION.search(packet if isinstance(packet, bytes) else packet.encode())
    if found is None:
        return
    of_exif = image.getexif().get(_ORIENTATION)  # that of XMP where EXIF says none
    of_xmp = int(found[1] or found[2])
    if of_exif is not None and of_exif != of_xmp:
        raise ImageRefused(
            f"{name}: its EXIF orientation and that of its XMP differ, so it is not certain which way up it is; save "
            "it again upright"
        )


def _load(image: Image, data: bytes, kind: str, name: str) -> None:
    """Decode the pixels, all of them: of a PNG or TIFF a decoder may leave some out and go on."""
    if kind == "PNG":
        _load_png(image, data, name)
    elif kind == "TIFF":
        with tiff_errors() as errors:
            image.load()
        if errors.count:
            raise ImageRefused(f"{name}: the pixels of the TIFF file are damaged; export the image again")
    else:
        image.load()


def _load_png(image: Image, data: bytes, name: str) -> None:
    check_chunks(data, name)
    try:
        image.load()
    except OSError:
        check_rows(data, name)
        raise
    if not _has_last_row(image):
        check_rows(data, name)


def _has_last_row(image: Image) -> bool:
    """Whether the decoder came to the end of a PNG for certain: it goes from top to bottom, and begins with black."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    return not image.info.get("interlace") and bool(np.asarray(last).any())


def _opener(kind: str) -> Callable[[io.BytesIO], Image]:
    """Pillow's opener of a format, imported where a failure is not blamed on the file.

    Raises:
        MissingDependency: Pillow is missing, or installed and broken.
    """
    module, opener = _OPENERS[kind]
    try:
        importlib.import_module("PIL.ImageOps")
        found: Callable[[io.BytesIO], Image] = getattr(importlib.import_module(module), opener)
    except Exception as exc:
        raise MissingDependency(
            f"the {kind} decoder cannot be imported ({type(exc).__name__}), which is no fault of the image; "
            "pip install --force-reinstall pillow"
        ) from exc
    return found


def _check_jpeg(data: bytes, image: Image, opener: Callable[[io.BytesIO], Image], name: str) -> None:
    """Refuse a JPEG that lacks blocks before its end marker: libjpeg only warns and fills them with mid-grey.

    Of a sequential JPEG the last pixel is mid-grey then, so that others need no second decoding. Of a progressive one a
    block may lack some of its coefficients only.
    """
    last = image.getpixel((image.width - 1, image.height - 1))
    is_suspect = last in (_MID_GREY, (_MID_GREY,) * 3) or "progressive" in image.info
    if not has_end(data):
        raise ImageRefused(f"{name}: the JPEG file is damaged, truncated: it has no end marker; copy it again")
    if lacks_scans(data):
        raise ImageRefused(f"{name}: the JPEG file is damaged, truncated: scans are missing; export it again")
    if is_suspect:
        with opener(io.BytesIO(with_noise_behind_scans(data) or data)) as other:
            if other.tobytes() != image.tobytes():
                raise ImageRefused(f"{name}: the JPEG file is damaged, truncated: blocks are missing; export it again")


def _bytes_per_pixel(image: Image) -> int:
    """Of the decoded image; a palette becomes RGB, or RGBA where it has transparent entries."""
    if image.mode == "P":
        return 4 if "transparency" in image.info else 3
    return {"I": 4, "F": 4}.get(image.mode, 2 if image.mode in _SIXTEEN_BIT else len(image.getbands()))


def _refuse_pages(image: Image, name: str) -> None:
    # A camera's MPO is a JPEG with its preview appended: the first picture is the image.
    pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if pages > 1:
        raise ImageRefused(
            f"{name}: {pages} pages or frames, a 3-D volume or an animation, which is out of scope; give one 2-D image"
        )


def _refuse_deep_colour(image: Image, data: bytes, kind: str, name: str) -> None:
    """Pillow reads 16-bit colour (and grey with alpha) by dropping the low byte, in silence."""
    png_depth = data[24] if kind == "PNG" and len(data) > 24 else 8  # IHDR: width, height, bit depth
    depths = [png_depth, *_tiff_bits(image, kind)]
    if max(depths) > 8 and image.mode not in (*_SIXTEEN_BIT, "I", "F"):
        raise ImageRefused(f"{name}: {max(depths)} bits a channel in colour cannot be read in full; give 8-bit RGB")


def _tiff_bits(image: Image, kind: str) -> tuple[int, ...]:
    if kind != "TIFF":
        return ()
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    return tuple(tags.get(_TIFF_BITS, (8,)))


def _tiff_depth(image: Image, kind: str) -> tuple[int, bool]:
    """Bits of a 16-bit container that are used, and whether black and white are swapped.

    Pillow unpacks 12-bit samples without scaling them, and inverts WhiteIsZero only up to 8 bits.
    """
    if kind != "TIFF":
        return 16, False
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    return max(_tiff_bits(image, kind)), tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO


def _sixteen_bit(image: Image, bits: int, *, inverted: bool) -> Pixels:
    values: NDArray[np.uint16] = np.asarray(image).astype(np.uint16, copy=False)
    white = 2 ** min(bits, 16) - 1
    return Pixels(np.subtract(white, values, dtype=np.uint16) if inverted else values, 0.0, float(white))


def _eight_bit(image: Image, name: str) -> Image:
    if "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in _WITH_ALPHA:
        straight = image.convert("LA" if _WITH_ALPHA[image.mode] == "L" else "RGBA")
        low, _ = straight.getchannel("A").getextrema()
        if low != 255:
            raise ImageRefused(f"{name}: the image has transparent pixels; flatten it first")
        return straight.convert(_WITH_ALPHA[image.mode])
    if image.mode not in _CONVERSIONS:
        reason = _REFUSED_MODES.get(image.mode, f"a {image.mode} image")
        raise ImageRefused(f"{name}: {reason}; give 8- or 16-bit grey or 8-bit RGB")
    return image if image.mode == _CONVERSIONS[image.mode] else image.convert(_CONVERSIONS[image.mode])
