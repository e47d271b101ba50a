"""`ImageSpec`: the only description of how stored pixels become the network's input."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import msgspec

from medfm_compress.runtime.errors import InputError

Colour = Literal["grey", "rgb"]
Resize = Literal["stretch", "shortest", "longest"]
Filter = Literal["nearest", "bilinear", "bicubic"]
Window = Literal["file", "full_range", "fixed"]
Blending = Literal["gaussian", "constant"]
ColourKind = Literal["grey", "colour"]
FrameChoice = Literal["first", "middle", "numbered", "all"]
FrameAggregation = Literal["max", "mean", "each"]
Side = Literal["L", "R"]

AXES = {"L": 0, "R": 0, "A": 1, "P": 1, "H": 2, "F": 2}
"""A direction in the patient and its axis (PS3.3 C.7.6.1.1.1)."""

MAX_SIDE_PX = 4096
_OF_PIXELS = (
    *("window", "window_center", "window_width", "window_number", "window_explanation"),
    *("frame", "frame_number", "frame_aggregation", "orientation", "mirrored_to"),
)
_OF_SCHEMA_8 = ("frame_aggregation", "orientation", "mirrored_to")
_OF_SCHEMA_6 = (
    *("window_number", "window_explanation", "sop_classes", "lateralities", "min_spacing_mm", "max_spacing_mm"),
    *("frame", "frame_number"),
)
MOST_OVERLAP = 0.9
LARGEST_SHIFT = 1e6
"""Of mean, std and 1 / std: what comes of them stays far inside the range of float32."""


class DicomRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which DICOM images a network was made for, and how their values become presentation values.

    Empty tuples accept anything. An attribute that is absent from a file is accepted unless it is ``Modality`` or ``SOP
    Class UID``, which are type 1 in every image IOD (PS3.3 C.7.3.1.1.1, C.12.1), or the spacing where a range is given.
    What is UNSET is left out of the JSON, so that digests of older bundles hold.

    Attributes:
        modalities: allowed ``Modality`` (0008,0060), e.g. ``("CR", "DX")``.
        view_positions: allowed ``ViewPosition`` (0018,5101), e.g. ``("PA", "AP")``.
        body_parts: allowed ``BodyPartExamined`` (0018,0015), upper case.
        window: ``file`` applies the file's VOI LUT or window (full range where it has none), ``full_range``
            ignores it, ``fixed`` applies ``window_center`` / ``window_width`` to the modality values.
        window_center: in modality units (e.g. HU); only with ``fixed``.
        window_width: in modality units, >= 1; only with ``fixed``.
        window_number: which of the file's several VOI LUTs or windows, counted from 1; absent it is the first that is
            not empty; only with ``file``.
        window_explanation: which of them, by its explanation (0028,1055) or (0028,3003); only with ``file``.
        sop_classes: allowed ``SOP Class UID`` (0008,0016), e.g. ``("1.2.840.10008.5.1.4.1.1.1.1",)``.
        lateralities: allowed ``ImageLaterality`` (0020,0062), else ``FrameLaterality`` or ``Laterality``: R, L, U, B.
        min_spacing_mm: least distance of rows and of columns; a file that does not say it is refused.
        max_spacing_mm: greatest distance of rows and of columns; a file that does not say it is refused.
        frame: which frame of a multi-frame image is the image: the ``first``, the ``middle`` one (of an even number
            the earlier), that of ``frame_number``, or ``all``, each by itself; absent, multi-frame images are refused.
        frame_number: counted from 1; only with ``numbered``.
        frame_aggregation: what the answers for ``all`` frames become: the ``max`` or the ``mean`` of each finding's
            probability, or one answer for ``each``; only with ``all``, which needs it.
        orientation: directions of rows and columns in the patient that the network was made for, e.g. ``LF``; an image
            that lies otherwise is turned, one that does not say how it lies is refused.
        mirrored_to: images of the other side of the body are mirrored, so that all look like this one; an image that
            does not say its side is refused.
    """

    modalities: tuple[str, ...] = ()
    view_positions: tuple[str, ...] = ()
    body_parts: tuple[str, ...] = ()
    window: Window = "file"
    window_center: float | None = None
    window_width: float | None = None
    window_number: int | msgspec.UnsetType = msgspec.UNSET
    window_explanation: str | msgspec.UnsetType = msgspec.UNSET
    sop_classes: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    lateralities: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET
    min_spacing_mm: float | msgspec.UnsetType = msgspec.UNSET
    max_spacing_mm: float | msgspec.UnsetType = msgspec.UNSET
    frame: FrameChoice | msgspec.UnsetType = msgspec.UNSET
    frame_number: int | msgspec.UnsetType = msgspec.UNSET
    frame_aggregation: FrameAggregation | msgspec.UnsetType = msgspec.UNSET
    orientation: str | msgspec.UnsetType = msgspec.UNSET
    mirrored_to: Side | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        fixed = self.window == "fixed"
        if fixed != (self.window_center is not None) or fixed != (self.window_width is not None):
            raise InputError("window_center and window_width go with window 'fixed', and it needs both")
        if self.window_width is not None and self.window_width < 1:
            raise InputError(f"window_width is {self.window_width}; it must be at least 1 (PS3.3 C.11.2.1.2.1)")
        self._check_choices()
        self._check_spacing()

    def _check_choices(self) -> None:
        chosen = (self.window_number, self.window_explanation)
        if chosen != (msgspec.UNSET, msgspec.UNSET) and (self.window != "file" or msgspec.UNSET not in chosen):
            raise InputError("window_number or window_explanation, one of them, goes with window 'file' alone")
        if (self.frame == "numbered") != (self.frame_number is not msgspec.UNSET):
            raise InputError("frame_number goes with frame 'numbered', and it needs one")
        if (self.frame == "all") != (self.frame_aggregation is not msgspec.UNSET):
            raise InputError("frame_aggregation goes with frame 'all', and it needs one: max, mean or each")
        axes = [] if self.orientation is msgspec.UNSET else [AXES.get(letter) for letter in self.orientation]
        if self.orientation is not msgspec.UNSET and (len(axes) != 2 or None in axes or axes[0] == axes[1]):
            raise InputError(
                f"orientation is {self.orientation!r}; write the directions of rows and of columns, two of L, R, A, P, "
                "H and F on two axes, e.g. LF"
            )
        for name, number in (("window_number", self.window_number), ("frame_number", self.frame_number)):
            if number is not msgspec.UNSET and number < 1:
                raise InputError(f"{name} is {number}; the first is 1")
        if self.window_explanation is not msgspec.UNSET and not self.window_explanation.strip():
            raise InputError("window_explanation is empty; write it as the files do, e.g. LUNG, or leave it out")

    def _check_spacing(self) -> None:
        low, high = self.spacing_range_mm
        if not 0 <= low <= high or high == 0:
            raise InputError(f"pixel spacing from {low} to {high} mm holds none; min_spacing_mm must be the smaller")

    @property
    def spacing_range_mm(self) -> tuple[float, float]:
        """Least and greatest distance of pixels; from 0 to infinity where neither is declared."""
        low = 0.0 if self.min_spacing_mm is msgspec.UNSET else self.min_spacing_mm
        return low, math.inf if self.max_spacing_mm is msgspec.UNSET else self.max_spacing_mm

    @property
    def declares_kind(self) -> bool:
        """Whether they say of which kind images must be, by modality or SOP class."""
        return bool(self.modalities or self.sop_classes)

    @property
    def has_later_rules(self) -> bool:
        """Whether a rule is set that bundles before schema 6 did not know."""
        return any(getattr(self, name) is not msgspec.UNSET for name in _OF_SCHEMA_6)

    @property
    def has_rules_of_schema_8(self) -> bool:
        """Whether a rule is set that bundles before schema 8 did not know."""
        return any(getattr(self, name) is not msgspec.UNSET for name in _OF_SCHEMA_8)

    @property
    def turns(self) -> bool:
        """Whether an image may be turned or mirrored, so that its pixels lie otherwise than they are stored."""
        return self.orientation is not msgspec.UNSET or self.mirrored_to is not msgspec.UNSET

    def for_pixels(self) -> DicomRules:
        """What of the rules decides the values of an image that is let in, without what decides who is let in."""
        return DicomRules(**{name: getattr(self, name) for name in _OF_PIXELS})


class Tiles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sliding window: the image is not resized to the network's input, the input moves over it.

    Attributes:
        overlap: of neighbouring tiles, as a fraction of their side, 0 to 0.9.
        blending: how logits of tiles that overlap are joined: weighted by a ``gaussian`` about the tile's middle, or
            by a ``constant``.
        mm_per_px: distance of pixels that the network was trained at; images are brought to it first, and one that does
            not say its own is refused. Absent, pixels are taken as they are.
    """

    overlap: float = 0.25
    blending: Blending = "gaussian"
    mm_per_px: float | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise InputError(f"overlap of tiles is {self.overlap}; it must be 0 to {MOST_OVERLAP:g}")
        if self.mm_per_px is not msgspec.UNSET and not 1e-5 <= self.mm_per_px <= 100:
            raise InputError(f"mm_per_px of tiles is {self.mm_per_px}; it must be 0.00001 to 100")


class ColourRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which images a network was made for, by what they show: a grey JPEG of three equal channels is a grey image.

    Attributes:
        images: ``grey`` or ``colour``, as `medfm_compress.runtime.colour_kind` tells them apart.
        others: what becomes of an image that is clearly of the other kind: ``flag`` its prediction, or ``refuse`` it.
    """

    images: ColourKind
    others: Literal["flag", "refuse"] = "flag"


StainVector = tuple[float, float, float]
_STAIN_STATISTICS = 1e3
"""Largest of a reference: optical densities of 8-bit pixels are below 6, their logarithms within ±3."""


class MacenkoStain(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="method", tag="macenko"
):
    """Stain normalisation after Macenko (2009) to a reference; see `medfm_compress.runtime.stain`.

    Attributes:
        hematoxylin: optical density of the reference's first stain in red, green and blue; of length 1.
        eosin: of its second stain.
        concentrations: the 99th percentile of either stain in the reference, > 0.
        others: what becomes of an image whose stains cannot be told (blank, or of another colour): ``keep`` it as it
            is, or ``refuse`` it.
    """

    hematoxylin: StainVector
    eosin: StainVector
    concentrations: tuple[float, float]
    others: Literal["keep", "refuse"] = "keep"

    def __post_init__(self) -> None:
        for name, vector in (("hematoxylin", self.hematoxylin), ("eosin", self.eosin)):
            if not abs(math.hypot(*vector) - 1) <= 0.02 or min(vector) < -1e-3:  # NaN fails this too
                raise InputError(f"{name} is {vector}; a stain's optical densities are at least 0 and of length 1")
        if math.dist(self.hematoxylin, self.eosin) < 1e-2:
            raise InputError(f"hematoxylin and eosin are {self.hematoxylin} and {self.eosin}; they must differ")
        if not all(0 < value <= _STAIN_STATISTICS for value in self.concentrations):
            raise InputError(f"concentrations are {self.concentrations}; each must be above 0")


class ReinhardStain(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="method", tag="reinhard"
):
    """Colour transfer after Reinhard (2001) to a reference; see `medfm_compress.runtime.stain`.

    Attributes:
        mean: of the reference's tissue in l, α and β.
        std: likewise, each > 0.
        others: as of `MacenkoStain`.
    """

    mean: StainVector
    std: StainVector
    others: Literal["keep", "refuse"] = "keep"

    def __post_init__(self) -> None:
        if not all(-_STAIN_STATISTICS <= value <= _STAIN_STATISTICS for value in self.mean):
            raise InputError(f"mean of the stain's reference is {self.mean}; every value must be finite")
        if not all(1e-6 <= value <= _STAIN_STATISTICS for value in self.std):
            raise InputError(f"std of the stain's reference is {self.std}; every value must be above 0")


StainRule: TypeAlias = MacenkoStain | ReinhardStain


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Preprocessing from decoded pixels to one network input of shape ``[channels, height_px, width_px]``, float32.

    The order is fixed: presentation values at their own bit depth → [0, 1] → colour → resize → stain → centre crop →
    clip to [0, 1] → ``(x - mean) / std``. The resize filters are those that ONNX ``Resize`` can express (antialiased,
    cubic coefficient -0.5), so the whole of it can be moved into a graph.

    Attributes:
        height_px: network input height, 8 to 4096.
        width_px: network input width, 8 to 4096.
        colour: ``grey`` (1 channel) or ``rgb`` (3 channels; grey images are repeated).
        resize: ``stretch`` both sides, ``shortest`` side to size then crop, ``longest`` side to size then pad with 0.
        filter: antialiased resampling filter.
        crop_fraction: the image is resized to ``floor(size / crop_fraction)`` and centre-cropped, in (0, 1].
        min_side_px: images with a shorter side below this are refused.
        tiles: the input is a tile of a sliding window, and ``resize`` and ``filter`` do nothing; absent, the image is
            resized. Left out of the JSON where absent.
        mean: per channel, in units of [0, 1], within ±1e6.
        std: per channel, > 0, 1e-6 to 1e6.
        dicom: rules for DICOM input.
        colour_rule: which kind of images, by colour, the network was made for; absent it is unknown, and nothing is
            flagged. Left out of the JSON where absent, so that digests of older bundles hold.
        stain: normalisation of a histological stain, of rgb alone; absent, colours stay as they are. Left out likewise.
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
    tiles: Tiles | msgspec.UnsetType = msgspec.UNSET
    dicom: DicomRules = DicomRules()
    colour_rule: ColourRule | msgspec.UnsetType = msgspec.UNSET
    stain: StainRule | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        for name, side in (("height_px", self.height_px), ("width_px", self.width_px)):
            if not 8 <= side <= MAX_SIDE_PX:
                raise InputError(f"{name} is {side}; it must be 8 to {MAX_SIDE_PX}")
        if not 0.1 <= self.crop_fraction <= 1:
            raise InputError(f"crop_fraction is {self.crop_fraction}; it must be in [0.1, 1]")
        if self.tiles and self.crop_fraction != 1:
            raise InputError(f"crop_fraction is {self.crop_fraction}; an image that is cut into tiles is not cropped")
        if self.min_side_px < 1:
            raise InputError(f"min_side_px is {self.min_side_px}; it must be at least 1")
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise InputError(
                f"colour {self.colour!r} needs {self.channels} mean and std values, got {self.mean}, {self.std}"
            )
        if self.stain is not msgspec.UNSET and self.colour != "rgb":
            raise InputError(f"colour is {self.colour!r}; a stain is normalised in rgb alone")
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
