"""Overlays that old files keep in unused high bits of the pixels (PS3.3 C.9.2 until 2004, retired since)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medfm_compress.runtime.dicom.checks import Layout

if TYPE_CHECKING:
    from pydicom import Dataset

_BITS_ALLOCATED, _BIT_POSITION = 0x0100, 0x0102
_GROUPS = tuple(range(0x6000, 0x6020, 2))  # sixteen overlays, PS3.5 7.6
OVERLAY_TAGS = tuple(group << 16 | element for group in _GROUPS for element in (_BITS_ALLOCATED, _BIT_POSITION))


def overlay_bits(ds: Dataset, layout: Layout) -> int:
    """A mask of the bits above Bits Stored that an overlay of the file is said to lie in; 0 where there is none.

    An overlay with its own Overlay Data has 1 for Overlay Bits Allocated; one in the pixels has that of the pixels.
    """
    mask = 0
    for group in _GROUPS:
        allocated, position = (_number(ds, group << 16 | element) for element in (_BITS_ALLOCATED, _BIT_POSITION))
        if allocated == layout.bits_allocated and layout.bits_stored <= position < allocated:
            mask |= 1 << position
    return mask


def _number(ds: Dataset, tag: int) -> int:
    """The attribute, or -1 where it is absent or not one integer."""
    value = ds[tag].value if tag in ds else None
    return value if isinstance(value, int) else -1
