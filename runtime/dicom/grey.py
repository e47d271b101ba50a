"""Stored grey values to P-values: modality transform, VOI transform, polarity, padding.

Sources: PS3.3 C.11.1 (Modality LUT), C.11.2 (VOI LUT), C.11.6 and C.8.11.3 (Presentation LUT Shape), C.7.5.1.1.2 (pixel
padding); PS3.14 (P-values).

Every step is a function of the stored value alone, and at most 65536 values can be stored. So the whole pipeline is
computed once for each possible value x in float64, as a table, and the image is looked up in it:

    m = LUT[x]  or  slope x + intercept            modality values
    y = LUT[m]  or  window(m)  or  full range      in [0, 1]
    P = round(65535 y),  65535 - P if MONOCHROME1

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
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.image_spec import DicomRules

if TYPE_CHECKING:
    from pydicom import Dataset

Values = NDArray[np.float64]

WHITE = 65_535
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
    """P-value of every possible stored value.

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
    stored = _domain(layout)
    modality = _modality(ds, stored, name)
    shown, flags = _shown(ds, modality, rules, name)
    table = np.rint(shown * WHITE).astype(np.uint16)
    if table.min() == table.max():
        raise ImageRefused(f"{name}: its window lies outside its values and leaves a single grey; export it again")
    if _is_inverted(ds, layout, name):
        table = np.subtract(WHITE, table, dtype=np.uint16)
    return _without_padding(ds, layout, table, name), flags


def _domain(layout: Layout) -> Values:
    """Every stored value, in the order of its bits taken as an unsigned number."""
    codes = np.arange(2**layout.bits_stored, dtype=np.float64)
    if layout.is_signed:
        codes[codes.size // 2 :] -= codes.size
    return codes


def _modality(ds: Dataset, stored: Values, name: str) -> Modality:
    """PS3.3 C.11.1: a table, or ``slope x + intercept``, or the stored values."""
    sequence = ds.get("ModalityLUTSequence")
    if sequence:
        lut = _lut(ds, sequence[0], name, "modality", may_be_negative=bool(stored.min() < 0))
        return Modality(lut(stored).astype(np.float64), 0.0, float(2**lut.bits - 1), lut.is_partly_filled)
    slope, intercept = _first_number(ds, "RescaleSlope", name), _first_number(ds, "RescaleIntercept", name)
    if (slope is None) != (intercept is None) or slope == 0:
        raise ImageRefused(f"{name}: RescaleSlope and RescaleIntercept must both be there, and the slope not 0")
    values = stored if slope is None or intercept is None else slope * stored + intercept
    return Modality(values, float(values.min()), float(values.max()))


def _shown(ds: Dataset, modality: Modality, rules: DicomRules, name: str) -> tuple[Values, tuple[str, ...]]:
    """Presentation values in [0, 1] before polarity, and the flags."""
    if rules.window == "fixed" and rules.window_center is not None and rules.window_width is not None:
        return linear(modality.values, rules.window_center, rules.window_width), ()
    if rules.window == "file":
        sequence = ds.get("VOILUTSequence")
        if sequence:
            lut = _lut(ds, sequence[0], name, "VOI", may_be_negative=modality.low < 0)
            return lut(modality.values) / (2**lut.bits - 1), (PARTLY_FILLED,) * lut.is_partly_filled
        window = _first_window(ds, name)
        if window:
            return _windowed(ds, modality.values, *window, name), ()
    full = (modality.values - modality.low) / (modality.high - modality.low)
    flags = (NO_WINDOW,) if rules.window == "file" else ()
    return full, flags + (PARTLY_FILLED,) * modality.is_partly_filled


def _first_window(ds: Dataset, name: str) -> tuple[float, float] | None:
    centre, width = _first_number(ds, "WindowCenter", name), _first_number(ds, "WindowWidth", name)
    if centre is None and width is None:
        return None
    if centre is None or width is None:
        raise ImageRefused(f"{name}: WindowCenter and WindowWidth must both be there; export the image again")
    return centre, width


def _windowed(ds: Dataset, values: Values, centre: float, width: float, name: str) -> Values:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3; LINEAR where VOI LUT Function is absent."""
    function = code(ds, "VOILUTFunction") or "LINEAR"
    formulas = {"LINEAR": linear, "LINEAR_EXACT": linear_exact, "SIGMOID": sigmoid}
    if function not in formulas:
        raise ImageRefused(f"{name}: VOI LUT Function must be one of {', '.join(formulas)}")
    if width <= 0 or (function == "LINEAR" and width < 1):
        least = "at least 1" if function == "LINEAR" else "above 0"
        raise ImageRefused(f"{name}: WindowWidth is {width:g}; it must be {least} for {function} (PS3.3 C.11.2)")
    return formulas[function](values, centre, width)


def linear(x: Values, centre: float, width: float) -> Values:
    """LINEAR (C.11.2.1.2.1): ``(x - (c - 0.5)) / (w - 1) + 0.5`` clipped to [0, 1]; a step for a width of 1."""
    if width == 1:
        return (x > centre - 0.5).astype(np.float64)
    return np.clip((x - (centre - 0.5)) / (width - 1) + 0.5, 0.0, 1.0)


def linear_exact(x: Values, centre: float, width: float) -> Values:
    """LINEAR_EXACT (C.11.2.1.3.2): ``(x - c) / w + 0.5`` clipped to [0, 1]."""
    return np.clip((x - centre) / width + 0.5, 0.0, 1.0)


def sigmoid(x: Values, centre: float, width: float) -> Values:
    """SIGMOID (C.11.2.1.3.1): ``1 / (1 + exp(-4 (x - c) / w))``."""
    exponent = np.clip(-4.0 * (x - centre) / width, -700.0, 700.0)  # exp overflows beyond, and the result is 0 or 1
    result: Values = 1.0 / (1.0 + np.exp(exponent))
    return result


def _is_inverted(ds: Dataset, layout: Layout, name: str) -> bool:
    shape = code(ds, "PresentationLUTShape")
    if shape not in _SHAPES or "PresentationLUTSequence" in ds:
        raise ImageRefused(f"{name}: Presentation LUT must be the shape IDENTITY or INVERSE; export the image again")
    if _SHAPES[shape] not in (None, layout.photometric):
        raise ImageRefused(
            f"{name}: Presentation LUT Shape {shape} contradicts {layout.photometric}, so black and white are uncertain"
        )
    return layout.photometric == "MONOCHROME1"


def _without_padding(ds: Dataset, layout: Layout, table: NDArray[np.uint16], name: str) -> NDArray[np.uint16]:
    """Black for padding; from Pixel Padding Value to Pixel Padding Range Limit, in either order."""
    if ds.get("PixelPaddingValue") is None:
        return table
    value = whole_number(ds, "PixelPaddingValue", name)
    limit = whole_number(ds, "PixelPaddingRangeLimit", name, default=value)
    stored = _domain(layout)
    ends = sorted(_as_stored(end, layout) for end in (value, limit))
    table[(stored >= ends[0]) & (stored <= ends[1])] = 0
    return table


def _as_stored(value: int, layout: Layout) -> int:
    """Undo a padding value of signed pixels that was written as unsigned (63536 for -2000)."""
    wrapped = layout.is_signed and 2 ** (layout.bits_allocated - 1) <= value < 2**layout.bits_allocated
    return value - 2**layout.bits_allocated if wrapped else value


def _lut(ds: Dataset, item: Dataset, name: str, label: str, *, may_be_negative: bool) -> Lut:
    lut = lut_of(
        item.get("LUTDescriptor"),
        item.get("LUTData"),
        little_endian=is_little_endian(ds),
        may_be_negative=may_be_negative,
    )
    if lut is None:
        raise ImageRefused(f"{name}: its {label} lookup table does not match its descriptor; export the image again")
    return lut


def _first_number(ds: Dataset, keyword: str, name: str) -> float | None:
    """The first value of a decimal attribute, or None where it is absent or empty.

    Raises:
        ImageRefused: text, a decimal comma (PS3.5 6.2 wants a point), infinite or NaN.
    """
    try:
        value = ds.get(keyword)  # pydicom converts text to numbers here
    except (ValueError, TypeError, OverflowError):
        raise ImageRefused(f"{name}: {keyword} {_fault(ds, keyword)}; export the image again") from None
    if value is None or isinstance(value, str):
        value = value or None
    elif hasattr(value, "__len__"):
        value = value[0] if len(value) else None
    if value is None:
        return None
    try:
        number = float(value)
    except (ValueError, TypeError):
        raise ImageRefused(f"{name}: {keyword} {_fault(ds, keyword)}; export the image again") from None
    if not np.isfinite(number):
        raise ImageRefused(f"{name}: {keyword} is not a finite number; export the image again")
    return number


def _fault(ds: Dataset, keyword: str) -> str:
    """Why the attribute is no number, without its value."""
    raw = ds.get_item(keyword).value
    text = raw.decode("latin-1") if isinstance(raw, bytes) else str(raw)
    return "is written with a comma, and DICOM takes a decimal point only" if "," in text else "is text, not a number"
