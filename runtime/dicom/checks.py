"""Which DICOM images are read at all.

Everything here looks at attributes only, before a pixel is decoded or allocated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from medfm_compress.runtime.dicom.numbers import integer_from
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.size_limits import check_decoded, check_extent

if TYPE_CHECKING:
    from pydicom import Dataset

# PS3.4 B.5; by class first, since Modality may be absent or wrong.
_OBJECTS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation object (SEG)",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label map segmentation object (SEG)",
    "1.2.840.10008.5.1.4.1.1.481.2": "a dose grid (RTDOSE)",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map",
}
_MODALITIES = {
    "SEG": "a segmentation object (SEG)",
    "RTDOSE": "a dose grid (RTDOSE)",
    "RTSTRUCT": "a structure set (RTSTRUCT)",
    "RTPLAN": "a treatment plan (RTPLAN)",
    "PR": "a presentation state (PR)",
    "SR": "a structured report (SR)",
    "KO": "a key object selection (KO)",
    "REG": "a registration (REG)",
    "DOC": "a document (DOC)",
}
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")


class Layout(NamedTuple):
    """Image Pixel Module (PS3.3 C.7.6.3): how the stored pixels lie."""

    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    photometric: str

    @property
    def is_grey(self) -> bool:
        """MONOCHROME1 or MONOCHROME2."""
        return self.photometric in _GREY

    @property
    def is_palette(self) -> bool:
        """One sample that indexes a table of colours."""
        return self.photometric == _PALETTE


def check_object(ds: Dataset, name: str) -> None:
    """Refuse what is not an image for presentation.

    Raises:
        ImageRefused: segmentation, dose grid, parametric map, presentation state, raw detector data, or no pixels; or
            a code of these that says two different things.
    """
    known = _OBJECTS.get(str(ds.get("SOPClassUID", ""))) or _MODALITIES.get(code(ds, "Modality", name))
    if known:
        raise ImageRefused(f"{name}: {known}, not an image; give the image it belongs to")
    if "FloatPixelData" in ds or "DoubleFloatPixelData" in ds:
        raise ImageRefused(f"{name}: floating-point pixels (a parametric map), not an image")
    if "PixelData" not in ds or "Rows" not in ds:
        raise ImageRefused(f"{name}: this DICOM file holds no image (no Pixel Data); give an image file")
    if code(ds, "PresentationIntentType", name) == "FOR PROCESSING":
        raise ImageRefused(f"{name}: raw detector data (FOR PROCESSING); give the image FOR PRESENTATION")


def layout_of(ds: Dataset, name: str) -> Layout:
    """Read the Image Pixel Module and refuse what cannot be decoded with certainty.

    Raises:
        ImageRefused: an attribute is missing, the image is too large, or bits, samples and photometric interpretation
            do not make a grey or colour image of 1 to 32 bits.
    """
    layout = Layout(
        rows=whole_number(ds, "Rows", name),
        columns=whole_number(ds, "Columns", name),
        samples=whole_number(ds, "SamplesPerPixel", name, default=1),
        bits_allocated=whole_number(ds, "BitsAllocated", name),
        bits_stored=whole_number(ds, "BitsStored", name),
        is_signed=whole_number(ds, "PixelRepresentation", name) == 1,
        photometric=code(ds, "PhotometricInterpretation", name),
    )
    check_extent(layout.rows, layout.columns, name)
    _check_bits(ds, layout, name)
    _check_photometric(layout, name)
    _check_planar(ds, layout, name)
    # A palette turns one index into three entries of up to 16 bits.
    decoded = 6 if layout.is_palette else layout.samples * -(-layout.bits_allocated // 8)
    check_decoded(layout.rows, layout.columns, decoded, name)
    return layout


def _check_bits(ds: Dataset, layout: Layout, name: str) -> None:
    """PS3.5 8.1.1: one bit, or whole bytes; 24 and 64 bits are in no image that a decoder here reads."""
    allocated, stored = layout.bits_allocated, layout.bits_stored
    if allocated not in (1, 8, 16, 32) or not 1 <= stored <= allocated:
        raise ImageRefused(f"{name}: {stored} bits stored in {allocated}; 1 to 32 bits in 1, 8, 16 or 32 are allowed")
    if stored == 1 and layout.is_signed:
        raise ImageRefused(f"{name}: one signed bit a pixel holds 0 and -1; export the image again")
    if allocated == 1:
        _check_packed(ds, layout, name)
    high_bit = whole_number(ds, "HighBit", name, default=stored - 1)
    if high_bit != stored - 1:
        raise ImageRefused(f"{name}: High Bit is {high_bit} with {stored} bits stored; it must be {stored - 1}")


def _check_packed(ds: Dataset, layout: Layout, name: str) -> None:
    """Eight pixels a byte, the first in the lowest bit, is certain for native grey in little endian (PS3.5 8.1.1)."""
    syntax = ds.file_meta.TransferSyntaxUID
    if not layout.is_grey or syntax.is_encapsulated or not syntax.is_little_endian:
        raise ImageRefused(
            f"{name}: pixels of one bit that are compressed, big-endian or no greys; export it with 8 bits allocated"
        )


def _check_photometric(layout: Layout, name: str) -> None:
    samples = 1 if layout.is_grey or layout.is_palette else 3
    if samples == 3 and layout.photometric not in _COLOUR:
        shown = layout.photometric if _CODE_STRING.fullmatch(layout.photometric) else "missing or no code"
        raise ImageRefused(
            f"{name}: the photometric interpretation is {shown}; allowed are {listed((*_GREY, _PALETTE, *_COLOUR))}"
        )
    if layout.samples != samples:
        raise ImageRefused(f"{name}: {layout.samples} samples per pixel; {layout.photometric} has {samples}")
    if layout.is_palette and layout.bits_allocated > 16:
        raise ImageRefused(f"{name}: a palette has 8 or 16 bits allocated (PS3.3 C.7.6.3.1.2); this has 32")
    if layout.is_signed and not layout.is_grey:
        raise ImageRefused(f"{name}: signed colour pixels; colour is unsigned (PS3.3 C.7.6.3)")


def _check_planar(ds: Dataset, layout: Layout, name: str) -> None:
    """Whether the colours of native pixels lie beside each other (0) or plane by plane (1); PS3.3 C.7.6.3.1.3."""
    if layout.samples == 1 or ds.file_meta.TransferSyntaxUID.is_encapsulated:
        return
    planar = whole_number(ds, "PlanarConfiguration", name)
    allowed = (0,) if layout.photometric == "YBR_FULL_422" else (0, 1)  # C.7.6.3.1.2
    if planar not in allowed:
        raise ImageRefused(
            f"{name}: Planar Configuration is {planar}; of uncompressed {layout.photometric} it must be "
            f"{' or '.join(map(str, allowed))}; correct it"
        )


def code(ds: Dataset, keyword: str, name: str) -> str:
    """A code string of value multiplicity 1 (PS3.6) in upper case without padding; empty where it is absent.

    Raises:
        ImageRefused: several values that differ; none of them is more certain than another.
    """
    value = ds.get(keyword)
    values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
    texts = (str(part).strip().upper() for part in values if part is not None)
    said = list(dict.fromkeys(text for text in texts if text))
    if len(said) > 1:
        raise ImageRefused(
            f"{name}: {keyword} has {len(said)} values, {listed(tuple(map(shown_code, said[:4])))}; one is allowed: "
            "correct it"
        )
    return said[0] if said else ""


def whole_number(ds: Dataset, keyword: str, name: str, default: int | None = None) -> int:
    """An integer attribute.

    Raises:
        ImageRefused: absent or empty without a ``default``, or not one integer.
    """
    try:
        value = ds.get(keyword)  # pydicom converts text to a number here
        if value is not None and value != "":
            return integer_from(value)
    except (TypeError, ValueError, OverflowError):
        raise ImageRefused(f"{name}: {keyword} is not one integer; export the image again") from None
    if default is None:
        raise ImageRefused(f"{name}: the DICOM file has no {keyword}; export it again")
    return default


def listed(allowed: tuple[str, ...]) -> str:
    """With commas, for an error."""
    return ", ".join(allowed)


def shown_code(value: str) -> str:
    """The value where it is a code string, so that no other text of a file gets into a message."""
    return value if _CODE_STRING.fullmatch(value) else "not a code"
