"""`ImageSpec`: the only description of how stored pixels become the network's input."""

from __future__ import annotations

from typing import Literal

import msgspec

from medfm_compress.runtime.errors import InputError

Colour = Literal["grey", "rgb"]
Resize = Literal["stretch", "shortest", "longest"]
Filter = Literal["nearest", "bilinear", "bicubic"]
Window = Literal["file", "full_range", "fixed"]
ColourKind = Literal["grey", "colour"]

MAX_SIDE_PX = 4096
LARGEST_SHIFT = 1e6
"""Of mean, std and 1 / std: what comes of them stays far inside the range of float32."""


class DicomRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which DICOM images a network was made for, and how their values become presentation values.

    Empty tuples accept anything. An attribute that is absent from a file is accepted unless it is ``Modality``, which
    is type 1 in every image IOD (PS3.3 C.7.3.1.1.1).

    Attributes:
        modalities: allowed ``Modality`` (0008,0060), e.g. ``("CR", "DX")``.
        view_positions: allowed ``ViewPosition`` (0018,5101), e.g. ``("PA", "AP")``.
        body_parts: allowed ``BodyPartExamined`` (0018,0015), upper case.
        window: ``file`` applies the file's first VOI LUT or window (full range where it has none), ``full_range``
            ignores it, ``fixed`` applies ``window_center`` / ``window_width`` to the modality values.
        window_center: in modality units (e.g. HU); only with ``fixed``.
        window_width: in modality units, >= 1; only with ``fixed``.
    """

    modalities: tuple[str, ...] = ()
    view_positions: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    window: Window = "file"
    window_center: float | None = None
    window_width: float | None = None

    def __post_init__(self) -> None:
        fixed = self.window == "fixed"
        if fixed != (self.window_center is not None) or fixed != (self.window_width is not None):
            raise InputError("window_center and window_width go with window 'fixed', and it needs both")
        if self.window_width is not None and self.window_width < 1:
            raise InputError(f"window_width is {self.window_width}; it must be at least 1 (PS3.3 C.11.2.1.2.1)")


class ColourRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which images a network was made for, by what they show: a grey JPEG of three equal channels is a grey image.

    Attributes:
        images: ``grey`` or ``colour``, as `medfm_compress.runtime.colour_kind` tells them apart.
        others: what becomes of an image that is clearly of the other kind: ``flag`` its prediction, or ``refuse`` it.
    """

    images: ColourKind
    others: Literal["flag", "refuse"] = "flag"


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Preprocessing from decoded pixels to one network input of shape ``[channels, height_px, width_px]``, float32.

    The order is fixed: presentation values at their own bit depth → [0, 1] → colour → resize → centre crop → clip to
    [0, 1] → ``(x - mean) / std``. The resize filters are those that ONNX ``Resize`` can express (antialiased, cubic
    coefficient -0.5), so the whole of it can be moved into a graph.

    Attributes:
        height_px: network input height, 8 to 4096.
        width_px: network input width, 8 to 4096.
        colour: ``grey`` (1 channel) or ``rgb`` (3 channels; grey images are repeated).
        resize: ``stretch`` both sides, ``shortest`` side to size then crop, ``longest`` side to size then pad with 0.
        filter: antialiased resampling filter.
        crop_fraction: the image is resized to ``floor(size / crop_fraction)`` and centre-cropped, in (0, 1].
        min_side_px: images with a shorter side below this are refused.
        mean: per channel, in units of [0, 1], within ±1e6.
        std: per channel, > 0, 1e-6 to 1e6.
        dicom: rules for DICOM input.
        colour_rule: which kind of images, by colour, the network was made for; absent it is unknown, and nothing is
            flagged. Left out of the JSON where absent, so that digests of older bundles hold.
    """

    height_px: int
    width_px: int
    colour: Colour
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: Resize = "stretch"
    filter: Filter = "bicubic"
    crop_fraction: float = 1.0
    min_side_px: int = 32
    dicom: DicomRules = DicomRules()
    colour_rule: ColourRule | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        for name, side in (("height_px", self.height_px), ("width_px", self.width_px)):
            if not 8 <= side <= MAX_SIDE_PX:
                raise InputError(f"{name} is {side}; it must be 8 to {MAX_SIDE_PX}")
        if not 0.1 <= self.crop_fraction <= 1:
            raise InputError(f"crop_fraction is {self.crop_fraction}; it must be in [0.1, 1]")
        if self.min_side_px < 1:
            raise InputError(f"min_side_px is {self.min_side_px}; it must be at least 1")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise InputError(
                f"colour {self.colour!r} needs {self.channels} mean and std values, got {self.mean}, {self.std}"
            )
        if not all(-LARGEST_SHIFT <= value <= LARGEST_SHIFT for value in self.mean):
            raise InputError(f"mean is {self.mean}; every value must be within ±{LARGEST_SHIFT:g}")
        if not all(1 / LARGEST_SHIFT <= value <= LARGEST_SHIFT for value in self.std):
            raise InputError(
                f"std is {self.std}; every value must be above 0, from {1 / LARGEST_SHIFT:g} to {LARGEST_SHIFT:g}"
            )

    @property
    def channels(self) -> int:
        """1 for grey, 3 for rgb."""
        return 1 if self.colour == "grey" else 3

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of one network input: ``(1, channels, height_px, width_px)``."""
        return (1, self.channels, self.height_px, self.width_px)
