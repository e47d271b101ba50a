"""Stored colour to RGB: tables of colours here, YBR by pydicom (PS3.3 C.7.6.3.1.2, C.7.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.dicom_checks import Layout
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.pixels import Pixels

if TYPE_CHECKING:
    from pydicom import Dataset

_MAX_ENTRIES = 2**16
_DISCRETE, _LINEAR = 0, 1


def rgb_pixels(ds: Dataset, layout: Layout, values: NDArray[Any], name: str) -> Pixels:
    """RGB at the file's own depth.

    Args:
        ds: the attributes.
        layout: of the stored pixels.
        values: unsigned ``[rows, columns, 3]`` already in RGB, or ``[rows, columns]`` indices into a palette.
        name: what to call the file in an error.

    Raises:
        ImageRefused: the palette is unusable or has an alpha channel, or a value is beyond Bits Stored.
    """
    if layout.is_palette:
        coloured = _through_palette(ds, values, name)
        return Pixels.from_integers(coloured)
    white = 2**layout.bits_stored - 1
    if int(values.max()) > white:
        raise ImageRefused(f"{name}: pixels exceed the {layout.bits_stored} bits stored; export the image again")
    return Pixels(values, 0.0, float(white))


def _through_palette(ds: Dataset, indices: NDArray[Any], name: str) -> NDArray[Any]:
    from pydicom.pixels import apply_color_lut

    if "SegmentedRedPaletteColorLookupTableData" in ds:
        _check_segments(ds, name)
    elif len(ds.RedPaletteColorLookupTableDescriptor) != 3:
        raise ImageRefused(f"{name}: its palette descriptor is damaged; export the image again")
    coloured: NDArray[Any] = apply_color_lut(indices, ds)
    if coloured.shape != (*indices.shape, 3) or coloured.dtype not in (np.uint8, np.uint16):
        raise ImageRefused(f"{name}: its palette is not three tables of 8 or 16 bits; export the image as RGB")
    return np.ascontiguousarray(coloured)


def _check_segments(ds: Dataset, name: str) -> None:
    """Refuse a segmented palette (C.7.9.2) that would grow beyond 65536 entries: three words may stand for 65535."""
    bits = int(ds.RedPaletteColorLookupTableDescriptor[2])
    kind: type[np.unsignedinteger[Any]] = np.uint8 if bits == 8 else np.uint16
    for colour in ("Red", "Green", "Blue"):
        data = bytes(ds[f"Segmented{colour}PaletteColorLookupTableData"].value)
        order = "<" if ds.file_meta.TransferSyntaxUID.is_little_endian else ">"
        words = np.frombuffer(data[: len(data) // 2 * 2], np.dtype(kind).newbyteorder(order))
        if _expanded_size(words) > _MAX_ENTRIES:
            raise ImageRefused(f"{name}: its segmented palette is damaged or not supported; export the image as RGB")


def _expanded_size(words: NDArray[np.unsignedinteger[Any]]) -> int:
    """Entries that discrete and linear segments expand to; too many where a segment repeats others (indirect)."""
    at = total = 0
    while at + 1 < words.size and total <= _MAX_ENTRIES:
        opcode, length = int(words[at]), int(words[at + 1])
        if opcode not in (_DISCRETE, _LINEAR):
            return _MAX_ENTRIES + 1
        total += length
        at += 2 + (length if opcode == _DISCRETE else 1)
    return total
