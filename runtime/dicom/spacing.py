"""The distance between pixels, as far as a file says it (PS3.3 10.7.1.3; Imager and Nominal Scanned Pixel Spacing)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from medfm_compress.runtime.dicom.numbers import decimal_from

if TYPE_CHECKING:
    from pydicom import Dataset

_KEYWORDS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_LARGEST_MM = 100.0


def spacing_of(ds: Dataset) -> tuple[float, float] | None:
    """Spacing of rows and of columns in mm; None where no attribute gives a sensible one."""
    for keyword in _KEYWORDS:
        try:
            rows, columns = (decimal_from(value) for value in ds[keyword].value)
        except Exception:  # noqa: BLE001, S112 -- absent or malformed, which is as if it were not said
            continue
        if 0 < rows <= _LARGEST_MM and 0 < columns <= _LARGEST_MM:
            return rows, columns
    return None


def mean_and_aspect(ds: Dataset) -> tuple[float | None, float]:
    """Geometric mean of the spacing of rows and columns in mm, and rows over columns; None and 1 where none is said."""
    spacing = spacing_of(ds)
    return (None, 1.0) if spacing is None else (math.sqrt(spacing[0] * spacing[1]), spacing[0] / spacing[1])
