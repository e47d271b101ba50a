"""`Pixels`: a decoded image at its own bit depth, before any preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.images.tabled import Tabled


class Pixels(NamedTuple):
    """Decoded presentation values; larger is brighter.

    Attributes:
        held: ``[height, width]`` (grey) or ``[height, width, 3]`` (RGB), uint8, uint16 or float32; or what ``values``
            are looked up from.
        low: value that stands for black.
        high: value that stands for white, above ``low``.
        flags: quality remarks that a prediction carries on, e.g. ``lossy-compressed``.
        spacing_mm: between pixels, where a DICOM file says it; the geometric mean of rows and columns.
        examination: a mark that images of one DICOM study share, of no meaning outside this process.
        is_dicom: whether they come from a DICOM image.
        aspect: distance of rows over distance of columns, of pixels that are not square.
        attributes: DICOM keyword → text, of those that were asked for and that the file has.
    """

    held: NDArray[Any] | Tabled
    low: float
    high: float
    flags: tuple[str, ...] = ()
    spacing_mm: float | None = None
    examination: bytes | None = None
    is_dicom: bool = False
    aspect: float = 1.0
    attributes: Mapping[str, str] = MappingProxyType({})

    @property
    def values(self) -> NDArray[Any]:
        """``[height, width]`` or ``[height, width, 3]``."""
        return self.held.values if isinstance(self.held, Tabled) else self.held

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        return self.held.shape

    @property
    def is_colour(self) -> bool:
        """Whether the image has three channels."""
        return len(self.shape) == 3

    @classmethod
    def from_integers(cls, values: NDArray[Any], flags: tuple[str, ...] = ()) -> Pixels:
        """Pixels of an unsigned integer array that uses the full range of its dtype."""
        return cls(values, 0.0, float(np.iinfo(values.dtype).max), flags)
