"""Settings of a self-contained file, without what makes one."""

from __future__ import annotations

from typing import Literal

import msgspec

PixelKind = Literal["uint8", "uint16", "dicom"]
"""What a host gives of an image, see `pixel_values`."""
ResizeForm = Literal["resize", "matmul"]
"""``resize``: the operator of opset 18. ``matmul``: for engines whose ``Resize`` knows no antialias."""


class SelfContainedOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a self-contained file is made of.

    Attributes:
        variant: of the bundle, self-contained only; without it the first that runs on every CPU and did not fail.
        pixels: what the host gives of an image, self-contained only: ``uint8`` or ``uint16`` pixels, or ``dicom``, the
            stored values of a grey DICOM image with its attributes.
        resize_with: operators that resize, self-contained only: ``resize`` (opset 18), or ``matmul`` for engines whose
            Resize knows no antialias.
    """

    variant: str = ""
    pixels: PixelKind = "uint8"
    resize_with: ResizeForm = "resize"
