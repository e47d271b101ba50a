"""What a chain of MONAI transforms makes of an image, as an `ImageSpec`, and why it is not exactly that.

An 8-bit value v = 255 x goes through transforms that are affine, v' = a v + b per channel. The network's input is then
(x − mean) / std with std = 1 / s and mean = −o / s, where s and o are the slope and offset from x.

MONAI's readers give an image with its axes swapped, [width, height] (``reverse_indexing`` of ``PILReader``), unless
they are told otherwise: a network that was trained so sees every image transposed, which is repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from medfm_compress.compress.teachers.monai_config import TARGET
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import Filter, ImageSpec

_EIGHT_BIT = 255.0
_SWAP = [0, 2, 1]
_FILTERS: Mapping[str, Filter] = MappingProxyType(
    {"nearest": "nearest", "nearest-exact": "nearest", "bicubic": "bicubic"}
)
_TURNING = frozenset(
    ("Affine", "Flip", "Orientation", "Rotate", "Rotate90", "RandFlip", "RandRotate", "RandRotate90", "Zoom")
)
_PASSING = frozenset(
    (
        *("EnsureChannelFirst", "AsChannelFirst", "AddChannel", "RepeatChannel", "EnsureType", "CastToType"),
        *("ToTensor", "ToDevice", "Identity", "SelectItems", "DeleteItems"),
    )
)


@dataclass
class Chain:
    """What has become of x in [0, 1]: ``slope · x + offset`` per channel.

    Attributes:
        slope: per channel.
        offset: per channel.
        sides: of the image, in the order of MONAI's axes; None where nothing says them.
        filter: nearest to that of the resize.
        transposed: whether the network sees height and width swapped.
        differences: in what the nearest `ImageSpec` is not this chain; empty where it is.
    """

    slope: list[float]
    offset: list[float]
    sides: tuple[int, int] | None
    filter: Filter = "bilinear"
    transposed: bool = False
    differences: list[str] = field(default_factory=list)


def follow(transforms: Sequence[Mapping[str, Any]], channels: int, sides: tuple[int, int] | None) -> Chain:
    """Follow an 8-bit image through the transforms of a bundle.

    Args:
        transforms: literals, each with its ``_target_``.
        channels: of the network's input, 1 or 3.
        sides: of the network's input as the metadata says them, in the order of MONAI's axes.

    Raises:
        ModelError: transforms that turn or mirror the image, or arguments that make no sense.
    """
    chain = Chain([_EIGHT_BIT] * channels, [0.0] * channels, sides)
    key = _image_key(transforms)
    for transform in transforms:
        if TARGET not in transform:
            raise ModelError(f"a transform of the bundle has no {TARGET!r}; its keys: {', '.join(transform)}")
        if key in _keys(transform) and transform.get("_disabled_") is not True:
            _step(_plain_name(transform), transform, chain)
    if "LoadImage" not in map(_plain_name, transforms):
        chain.differences.append("it does not say how images are read")
    return chain


def nearest_spec(chain: Chain) -> ImageSpec:
    """The `ImageSpec` that resembles the chain most; it is the chain where that has no differences.

    Raises:
        ModelError: no size is known, or values that no spec can hold.
    """
    if chain.sides is None:
        raise ModelError("the bundle does not say the size of its images; give its --teacher-spec")
    first, second = chain.sides
    height, width = (second, first) if chain.transposed else (first, second)
    try:
        return ImageSpec(
            height_px=height,
            width_px=width,
            colour="grey" if len(chain.slope) == 1 else "rgb",
            mean=tuple(-offset / slope for slope, offset in zip(chain.slope, chain.offset, strict=True)),
            std=tuple(1 / slope for slope in chain.slope),
            filter=chain.filter,
        )
    except (InputError, ZeroDivisionError) as exc:
        raise ModelError(f"the bundle's preprocessing fits no ImageSpec ({exc}); give its --teacher-spec") from None


def _step(name: str, transform: Mapping[str, Any], chain: Chain) -> None:
    if name in _TURNING:
        raise ModelError(f"the bundle's {transform[TARGET]} turns or mirrors the image, which cannot be repeated")
    if name in _KNOWN:
        try:
            _KNOWN[name](transform, chain)
        except ModelError:
            raise
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as exc:
            raise ModelError(f"the arguments of the bundle's {transform[TARGET]} are unusable: {exc!r}") from None
    elif name not in _PASSING:
        chain.differences.append(f"{transform[TARGET]} is not known")
    elif "int" in str(transform.get("dtype", "")):
        chain.differences.append(f"{transform[TARGET]} rounds to {transform['dtype']}")


def _load(transform: Mapping[str, Any], chain: Chain) -> None:
    reader = str(transform.get("reader") or "PILReader").rsplit(".", 1)[-1]
    if reader != "PILReader":
        raise ModelError(f"the bundle reads images by {reader}, whose axes are not known; PILReader's are")
    if transform.get("converter"):
        chain.differences.append("its reader converts the image")
    chain.transposed ^= transform.get("reverse_indexing", True) is not False


def _transpose(transform: Mapping[str, Any], chain: Chain) -> None:
    if list(transform.get("indices") or ()) != _SWAP:
        raise ModelError(f"the bundle's transpose has indices {transform.get('indices')}; only {_SWAP} can be repeated")
    chain.transposed = not chain.transposed


def _resize(transform: Mapping[str, Any], chain: Chain) -> None:
    size, mode = transform.get("spatial_size"), str(transform.get("mode", "area"))
    both = [size, size] if isinstance(size, int) else list(size or ())
    if len(both) != 2 or not all(isinstance(side, int) for side in both):
        chain.differences.append(f"{transform[TARGET]} has the size {size}, not two sides")
        return
    chain.sides, chain.filter = (both[0], both[1]), _FILTERS.get(mode, "bilinear")
    chain.differences.append(f"{transform[TARGET]} (mode {mode}) does not antialias as an ImageSpec does")
    if transform.get("size_mode", "all") != "all":
        chain.differences.append(f"{transform[TARGET]} keeps the ratio of the sides")


def _scale(transform: Mapping[str, Any], chain: Chain) -> None:
    low, high = transform.get("minv", 0.0), transform.get("maxv", 1.0)
    chain.differences.append(f"{transform[TARGET]} scales each image by its own extremes")
    if low is not None and high is not None:
        channels = len(chain.slope)
        chain.slope, chain.offset = [float(high) - float(low)] * channels, [float(low)] * channels


def _scale_range(transform: Mapping[str, Any], chain: Chain) -> None:
    low, high = float(transform["a_min"]), float(transform["a_max"])
    ends = [(offset, slope + offset) for slope, offset in zip(chain.slope, chain.offset, strict=True)]
    if high <= low or any(end != (low, high) for end in ends):
        chain.differences.append(
            f"{transform[TARGET]} expects values of {low:g} to {high:g}, not {ends[0][0]:g} to {ends[0][1]:g}"
        )
        return
    to_low, to_high = transform.get("b_min"), transform.get("b_max")
    if to_low is None or to_high is None:
        to_low, to_high = 0.0, 1.0
    channels = len(chain.slope)
    chain.slope, chain.offset = [float(to_high) - float(to_low)] * channels, [float(to_low)] * channels


def _normalize(transform: Mapping[str, Any], chain: Chain) -> None:
    subtrahend, divisor = transform.get("subtrahend"), transform.get("divisor")
    if subtrahend is None or divisor is None or transform.get("nonzero"):
        chain.differences.append(f"{transform[TARGET]} normalises each image by its own values")
        return
    channels = len(chain.slope)
    minus, by = _per_channel(subtrahend, channels), _per_channel(divisor, channels)
    chain.offset = [(offset - m) / d for offset, m, d in zip(chain.offset, minus, by, strict=True)]
    chain.slope = [slope / d for slope, d in zip(chain.slope, by, strict=True)]


def _per_channel(value: Any, channels: int) -> list[float]:
    values = [float(part) for part in value] if isinstance(value, list) else [float(value)] * channels
    if len(values) != channels:
        raise ModelError(
            f"the bundle normalises {channels} channels with {len(values)} values; give its --teacher-spec"
        )
    return values


_KNOWN: Mapping[str, Callable[[Mapping[str, Any], Chain], None]] = MappingProxyType(
    {
        "LoadImage": _load,
        "Transpose": _transpose,
        "Resize": _resize,
        "ScaleIntensity": _scale,
        "ScaleIntensityRange": _scale_range,
        "NormalizeIntensity": _normalize,
    }
)


def _plain_name(transform: Mapping[str, Any]) -> str:
    """``Resize`` of ``monai.transforms.Resized``, ``ResizeD`` or ``ResizeDict``."""
    name = str(transform.get(TARGET, "")).rsplit(".", 1)[-1].removesuffix("Dict")
    return name[:-1] if name.endswith(("d", "D")) else name


def _keys(transform: Mapping[str, Any]) -> tuple[Any, ...]:
    keys = transform.get("keys")
    return tuple(keys) if isinstance(keys, list) else (keys,)


def _image_key(transforms: Sequence[Mapping[str, Any]]) -> Any:
    loading = [transform for transform in transforms if _plain_name(transform) == "LoadImage"]
    return _keys(loading[0])[0] if loading else "image"
