"""Presentation LUT: what a window gives to P-values (PS3.3 C.11.6.1.1, with the table of C.11.4.1.1).

    P = LUT[round(y (n - 1))] / (2^bits - 1),  y in [0, 1] from the VOI transform, n entries

Its input is the whole range of what comes before it, so its first entry stands for 0, and its output is a P-value: 0 is
black whatever the Photometric Interpretation says (PS3.14). So it is applied where both say the same: to MONOCHROME2,
with entries that do not fall. With MONOCHROME1, or where it inverts, black and white are uncertain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.dicom.checks import Layout
from medfm_compress.runtime.dicom.lut import is_little_endian, lut_of
from medfm_compress.runtime.errors import ImageRefused

if TYPE_CHECKING:
    from pydicom import Dataset


def through_presentation_lut(ds: Dataset, layout: Layout, shown: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """``shown`` in [0, 1] through the Presentation LUT Sequence; as it is where there is none.

    Raises:
        ImageRefused: a table that does not match its descriptor, beside a shape, or that leaves polarity uncertain.
    """
    if "PresentationLUTSequence" not in ds:
        return shown
    items = ds.PresentationLUTSequence
    if len(items) != 1 or "PresentationLUTShape" in ds:
        raise ImageRefused(f"{name}: Presentation LUT must be one table or one shape (PS3.3 C.11.6); export it again")
    lut = lut_of(items[0].get("LUTDescriptor"), items[0].get("LUTData"), little_endian=is_little_endian(ds))
    if lut is None or lut.first != 0:
        raise ImageRefused(f"{name}: its Presentation LUT does not match its descriptor; export the image again")
    if layout.photometric != "MONOCHROME2" or np.any(np.diff(lut.entries.astype(np.int64)) < 0):
        raise ImageRefused(f"{name}: its Presentation LUT inverts or goes with MONOCHROME1, so black is uncertain")
    presented: NDArray[np.float64] = lut(shown * (lut.entries.size - 1)) / (2**lut.bits - 1)
    return presented
