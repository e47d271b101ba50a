"""Stored grey values to P-values: modality transform, VOI transform, polarity, padding.

Sources: PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.11.6 (Presentation LUT), C.8.11.3 (its shape),
C.7.5.1.1.2 (pixel padding); PS3.14 (P-values).

Every step is a function of the stored value alone, and at most 65536 values can be stored in 16 bits. So the whole
pipeline is computed once for each possible value x in float64, as a table, and the image is looked up in it; of more
than 16 bits, once for each value that the image has:

    m = LUT[x]  or  slope x + intercept            modality values
    y = LUT[m]  or  window(m)  or  full range      in [0, 1]
    y = LUT[y]                                     where there is a Presentation LUT
    P = round(65535 y),  65535 - P if MONOCHROME1

More than 16 bits need a window: over their full range most images would be a few shades of black.

**Polarity.** MONOCHROME1 inverts, once. Presentation LUT Shape does not invert again: C.8.11.3 has INVERSE go with
MONOCHROME1 and IDENTITY with MONOCHROME2, each restating the other attribute. A file in which the two contradict has no
certain polarity and is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.dicom.checks import Layout, code, whole_number
from medfm_compress.runtime.dicom.lut import PARTLY_FILLED, Lut, is_little_endian, lut_of
from medfm_compress.runtime.dicom.numbers import first_number
from medfm_compress.runtime.dicom.presentation_lut import through_presentation_lut
from medfm_compress.runtime.dicom.windows import linear, table_item, window_of, windowed
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules

if TYPE_CHECKING:
    from pydicom import Dataset

Values = NDArray[np.float64]

WHITE = 65_535
MOST_TABLED_BITS = 16
NO_WINDOW = "no-window"
_SHAPES = {"": None, "IDENTITY": "MONOCHROME2", "INVERSE": "MONOCHROME1"}


class Modality(NamedTuple):
    """Modality values of every possible stored value, and the least and greatest they can take.

    Attributes:
        is_partly_filled: they come from a table that uses less than half of the range it declares.
    """

    values: Values
    low: float
    high: float
    is_partly_filled: bool = False


def p_value_table(
    ds: Dataset, layout: Layout, rules: DicomRules, name: str
) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    """P-value of every possible stored value of at most 16 bits.

    Args:
        ds: the attributes.
        layout: of the stored pixels.
        rules: how to choose the window.
        name: what to call the file in an error.

    Returns:
        uint16 ``[2 ** bits_stored]``, indexed by the stored bits taken as an unsigned number; and the flags.

    Raises:
        ImageRefused: a transform is incomplete, contradictory, or leaves a single grey value.
    """
    codes = np.arange(2**layout.bits_stored, dtype=np.float64)
    return _p_values(ds, layout, rules, name, _from_codes(codes, layout))


def deep_p_values(
    ds: Dataset, layout: Layout, rules: DicomRules, codes: NDArray[np.unsignedinteger], name: str
) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    """P-values of an image of more than 16 bits.

    Args:
        ds: the attributes.
        layout: of the stored pixels.
        rules: how to choose the window.
        codes: the stored bits as unsigned numbers, of any shape.
        name: what to call the file in an error.

    Returns:
        uint16 of the shape of ``codes``; and the flags.

    Raises:
        ImageRefused: as for :func:`p_value_table`.
    """
    found, places = np.unique(codes, return_inverse=True)
    stored = _from_codes(found.astype(np.float64), layout)
    # With both ends a window that leaves a single grey is told from an image that has one.
    table, flags = _p_values(ds, layout, rules, name, np.concatenate([stored, _ends(layout)]))
    return table[places.reshape(codes.shape)], flags


def _p_values(
    ds: Dataset, layout: Layout, rules: DicomRules, name: str, stored: Values
) -> tuple[NDArray[np.uint16], tuple[str, ...]]:
    modality = _modality(ds, layout, stored, name)
    shown, flags = _shown(ds, modality, rules, name)
    if NO_WINDOW in flags and layout.bits_stored > MOST_TABLED_BITS:
        raise ImageRefused(
            f"{name}: {layout.bits_stored} bits stored and no window that says which to show; export it with one"
        )
    shown = through_presentation_lut(ds, layout, shown, name)
    table = np.rint(shown * WHITE).astype(np.uint16)
    if table.min() == table.max():
        raise ImageRefused(f"{name}: its window lies outside its values and leaves a single grey; export it again")
    if _is_inverted(ds, layout, name):
        table = np.subtract(WHITE, table, dtype=np.uint16)
    return _without_padding(ds, layout, table, stored, name), flags


def _from_codes(codes: Values, layout: Layout) -> Values:
    """Stored values of their bits taken as unsigned numbers (two's complement where signed, PS3.5 6.2)."""
    if layout.is_signed:
        codes[codes >= 2 ** (layout.bits_stored - 1)] -= 2**layout.bits_stored
    return codes


def _ends(layout: Layout) -> Values:
    """The least and the greatest value that can be stored."""
    low = -(2 ** (layout.bits_stored - 1)) if layout.is_signed else 0
    return np.array([low, low + 2**layout.bits_stored - 1], np.float64)


def _modality(ds: Dataset, layout: Layout, stored: Values, name: str) -> Modality:
    """PS3.3 C.11.1: a table, or ``slope x + intercept``, or the stored values."""
    sequence = ds.get("ModalityLUTSequence")
    if sequence:
        lut = _lut(ds, sequence[0], name, "modality", may_be_negative=layout.is_signed)
        return Modality(lut(stored).astype(np.float64), 0.0, float(2**lut.bits - 1), lut.is_partly_filled)
    slope, intercept = first_number(ds, "RescaleSlope", name), first_number(ds, "RescaleIntercept", name)
    if (slope is None) != (intercept is None) or slope == 0:
        raise ImageRefused(f"{name}: RescaleSlope and RescaleIntercept must both be there, and the slope not 0")
    values, ends = stored, _ends(layout)
    if slope is not None and intercept is not None:
        values, ends = slope * stored + intercept, slope * ends + intercept
    return Modality(values, float(ends.min()), float(ends.max()))


def _shown(ds: Dataset, modality: Modality, rules: DicomRules, name: str) -> tuple[Values, tuple[str, ...]]:
    """Presentation values in [0, 1] before polarity, and the flags."""
    if rules.window == "fixed" and rules.window_center is not None and rules.window_width is not None:
        return linear(modality.values, rules.window_center, rules.window_width), ()
    if rules.window == "file":
        item = table_item(ds, rules, name)
        if item is not None:
            lut = _lut(ds, item, name, "VOI", may_be_negative=modality.low < 0, greatest=modality.high)
            return lut(modality.values) / (2**lut.bits - 1), (PARTLY_FILLED,) * lut.is_partly_filled
        window = window_of(ds, rules, name)
        if window:
            return windowed(ds, modality.values, window, name), ()
    full = (modality.values - modality.low) / (modality.high - modality.low)
    flags = (NO_WINDOW,) if rules.window == "file" else ()
    return full, flags + (PARTLY_FILLED,) * modality.is_partly_filled


def _is_inverted(ds: Dataset, layout: Layout, name: str) -> bool:
    shape = code(ds, "PresentationLUTShape", name)
    if shape not in _SHAPES:
        raise ImageRefused(f"{name}: Presentation LUT must be the shape IDENTITY or INVERSE; export the image again")
    if _SHAPES[shape] not in (None, layout.photometric):
        raise ImageRefused(
            f"{name}: Presentation LUT Shape {shape} contradicts {layout.photometric}, so black and white are uncertain"
        )
    return layout.photometric == "MONOCHROME1"


def _without_padding(
    ds: Dataset, layout: Layout, table: NDArray[np.uint16], stored: Values, name: str
) -> NDArray[np.uint16]:
    """Black for padding; from Pixel Padding Value to Pixel Padding Range Limit, in either order."""
    if ds.get("PixelPaddingValue") is None:
        return table
    value = whole_number(ds, "PixelPaddingValue", name)
    limit = whole_number(ds, "PixelPaddingRangeLimit", name, default=value)
    ends = sorted(_as_stored(end, layout) for end in (value, limit))
    table[(stored >= ends[0]) & (stored <= ends[1])] = 0
    return table


def _as_stored(value: int, layout: Layout) -> int:
    """Undo a padding value that was written with the other sign: 63536 for -2000 where pixels are signed, or -2000."""
    words, half = 2**layout.bits_allocated, 2 ** (layout.bits_allocated - 1)
    if layout.is_signed:
        return value - words if half <= value < words else value
    return value + words if -half <= value < 0 else value


def _lut(ds: Dataset, item: Dataset, name: str, label: str, *, may_be_negative: bool, greatest: float = 0.0) -> Lut:
    lut = lut_of(
        item.get("LUTDescriptor"),
        item.get("LUTData"),
        little_endian=is_little_endian(ds),
        may_be_negative=may_be_negative,
        greatest=greatest,
    )
    if lut is None:
        raise ImageRefused(f"{name}: its {label} lookup table does not match its descriptor; export the image again")
    return lut
