"""How large an image is once it is read, from its header alone."""

from __future__ import annotations

from pathlib import Path

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.file_types import HEAD_BYTES, kind_of, raster_format
from medfm_compress.runtime.images.jpeg_markers import MAX_HEADER_BYTES, SOS, check_header, markers
from medfm_compress.runtime.images.quiet_decoders import decoding

_ORIENTATION = 274
_MOST_HEADERS = 256 * 1024  # bytes that hold the header of nearly every JPEG
_ON_ITS_SIDE = (5, 6, 7, 8)  # EXIF 2.32, 4.6.4: rows and columns change places


def image_size(path: Path) -> tuple[int, int] | None:
    """(height, width) px after the turn that EXIF asks for; None where only decoding tells.

    Raises:
        ImageRefused: the file cannot be read, or its header is damaged.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as exc:
        raise ImageRefused(f"{path.name}: {exc.strerror}; give the path of a readable image file") from None
    if kind_of(head) == "dicom":
        return _of_dicom(path)
    kind = raster_format(head)
    return _of_raster(path, kind) if kind else None


def _of_raster(path: Path, kind: str) -> tuple[int, int]:
    with decoding(path.name, kind):
        from PIL import Image

        if kind == "JPEG":
            _check_jpeg(path)
        with Image.open(path, formats=[kind, "MPO"] if kind == "JPEG" else [kind]) as image:
            # Pillow has turned a TIFF's size already. Of a PNG an orientation behind the pixels is not looked for.
            orientation = image.getexif().get(_ORIENTATION) if kind == "JPEG" or "exif" in image.info else None
            turned = kind != "TIFF" and orientation in _ON_ITS_SIDE
            return (image.width, image.height) if turned else (image.height, image.width)


def _check_jpeg(path: Path) -> None:
    """`check_header`, of a file of which no more is read than that takes."""
    with path.open("rb") as file:
        data = file.read(_MOST_HEADERS)
        if all(marker.code != SOS for marker in markers(data)):
            data += file.read(MAX_HEADER_BYTES)
    check_header(data, path.name)


def _of_dicom(path: Path) -> tuple[int, int] | None:
    with decoding(path.name, "DICOM"):
        from pydicom import dcmread

        ds = dcmread(path, stop_before_pixels=True, force=True, specific_tags=["Rows", "Columns"])
        return (int(ds.Rows), int(ds.Columns)) if "Rows" in ds and "Columns" in ds else None
