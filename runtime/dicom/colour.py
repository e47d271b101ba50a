"""Stored colour to RGB: palettes here (PS3.3 C.7.6.3.1.5, C.7.9), YBR by pydicom (C.7.6.3.1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.dicom.checks import Layout
from medfm_compress.runtime.dicom.lut import PARTLY_FILLED, Lut, is_little_endian, lut_of, segmented_lut_of
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.pixels import Pixels

if TYPE_CHECKING:
    from pydicom import Dataset

_MOST_BITS, _WHITE = 16, 65_535


def rgb_pixels(ds: Dataset, layout: Layout, values: NDArray[Any], name: str) -> Pixels:
    """RGB at the file's own depth, of more than 16 bits the nearest of 16; flagged where a palette is dark.

    Args:
        ds: the attributes.
        layout: of the stored pixels.
        values: unsigned ``[rows, columns, 3]`` already in RGB, or ``[rows, columns]`` indices into a palette.
        name: what to call the file in an error.

    Raises:
        ImageRefused: the palette is unusable or has an alpha channel, or a value is beyond Bits Stored.
    """
    white = 2**layout.bits_stored - 1
    if int(values.max()) > white:
        raise ImageRefused(f"{name}: pixels exceed the {layout.bits_stored} bits stored; export the image again")
    if not layout.is_palette and layout.bits_stored > _MOST_BITS:
        return Pixels.from_integers(np.rint(values * (_WHITE / white)).astype(np.uint16))
    if not layout.is_palette:
        return Pixels(values.astype(np.uint16) if values.itemsize > 2 else values, 0.0, float(white))
    return _through_palette(ds, values, white, name)


def _through_palette(ds: Dataset, indices: NDArray[Any], last: int, name: str) -> Pixels:
    if any(f"{kind}AlphaPaletteColorLookupTableData" in ds for kind in ("", "Segmented")):
        raise ImageRefused(f"{name}: its palette has an alpha channel; export the image as RGB")
    luts = [_palette(ds, colour, name) for colour in ("Red", "Green", "Blue")]
    bits = luts[0].bits
    if {lut.bits for lut in luts} != {bits} or bits not in (8, 16):
        raise ImageRefused(f"{name}: its palette has entries of another depth than 8 or 16 bits; export it as RGB")
    # As for grey: looked up once for each possible index, then once for each pixel.
    domain = np.arange(last + 1)
    table = np.stack([lut(domain) for lut in luts], axis=-1).astype(np.uint8 if bits == 8 else np.uint16)
    partly_filled = all(lut.is_partly_filled for lut in luts)
    return Pixels.from_integers(table[indices], (PARTLY_FILLED,) * partly_filled)


def _palette(ds: Dataset, colour: str, name: str) -> Lut:
    """One table. pydicom's own lookup does not swap the bytes of big-endian palettes."""
    stem = f"{colour}PaletteColorLookupTable"
    descriptor, plain, segmented = (ds.get(key) for key in (f"{stem}Descriptor", f"{stem}Data", f"Segmented{stem}Data"))
    if not plain and not segmented:
        raise ImageRefused(f"{name}: its palette has no data for {colour.lower()}; export the image as RGB")
    if plain is not None:
        lut = lut_of(descriptor, plain, little_endian=is_little_endian(ds))
    else:
        lut = segmented_lut_of(descriptor, segmented, little_endian=is_little_endian(ds))
    if lut is None:
        raise ImageRefused(f"{name}: its palette does not match its descriptor; export the image as RGB")
    return lut
