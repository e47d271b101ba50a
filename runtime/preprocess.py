"""From decoded pixels to the network's input: the one implementation that training, calibration, bench and device use.

    x = (v - low) / (high - low)                  presentation values v at their own bit depth, to [0, 1]
    y = 0.299 R + 0.587 G + 0.114 B               colour to grey (ITU-R BT.601); grey to colour: repeated
    y = crop(resize(x))                           antialiased; cubic coefficient a = -0.5; geometry as timm's evaluation
    z = (clip(y, 0, 1) - mean) / std              per channel

All of it is float32. The resize is Pillow's on 32-bit float planes (mode ``F``), so 16-bit images keep their depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.colour_kind import check_colour
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.image_spec import Colour, Filter, ImageSpec, Resize

if TYPE_CHECKING:
    from medfm_compress.runtime.images.pixels import Pixels

FloatArray = NDArray[np.float32]

MAX_RESIZED_PIXELS = 64_000_000
LUMA = (np.float32(0.299), np.float32(0.587), np.float32(0.114))
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_TIMM_CROP_FRACTION = 0.875
_TIMM_RESIZE: dict[str, Resize] = {"center": "shortest", "squash": "stretch", "border": "longest"}
_TIMM_FILTERS: dict[str, Filter] = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic"}


def prepare(pixels: Pixels, spec: ImageSpec) -> FloatArray:
    """Everything but the normalisation: intensity, colour, resize, crop.

    Args:
        pixels: ``[H, W]`` or ``[H, W, 3]`` at their own bit depth.
        spec: what the network expects.

    Returns:
        float32 ``[channels, height_px, width_px]`` in [0, 1], contiguous.

    Raises:
        ImageRefused: the image is smaller than ``spec.min_side_px``, so elongated that its resized form is absurd, or
            of a kind of colour that ``spec.colour_rule`` refuses.
    """
    height, width = pixels.values.shape[:2]
    _check_size(height, width, spec)
    check_colour(pixels, spec)
    planes = [_fit(plane, spec) for plane in _planes(pixels, spec)]
    stacked = np.stack(planes * (spec.channels // len(planes)))
    return np.clip(stacked, 0.0, 1.0, out=stacked)


def normalise(prepared: NDArray[Any], spec: ImageSpec) -> FloatArray:
    """``(x - mean) / std`` per channel.

    Args:
        prepared: ``[..., channels, H, W]`` in [0, 1]; any leading axes.
        spec: gives ``mean`` and ``std``.

    Returns:
        float32 of the same shape; a new array.

    Raises:
        InputError: the channel axis does not match ``spec``.
    """
    if prepared.ndim < 3 or prepared.shape[-3] != spec.channels:
        raise InputError(
            f"the array has shape {prepared.shape}; a {spec.colour} spec needs [..., {spec.channels}, height, width]"
        )
    mean = np.asarray(spec.mean, np.float32)[:, None, None]
    std = np.asarray(spec.std, np.float32)[:, None, None]
    result: FloatArray = np.subtract(prepared, mean, dtype=np.float32)
    result /= std
    return result


def preprocess(pixels: Pixels, spec: ImageSpec) -> FloatArray:
    """:func:`prepare` and :func:`normalise`: one contiguous float32 batch ``[1, channels, height_px, width_px]``.

    Raises:
        ImageRefused: see :func:`prepare`.
    """
    return normalise(prepare(pixels, spec)[None], spec)


def spec_from_timm(
    pretrained_cfg: Mapping[str, Any], *, height_px: int, width_px: int, colour: Colour = "rgb"
) -> ImageSpec:
    """The `ImageSpec` of timm's evaluation transform (``timm.data.transforms_imagenet_eval``).

    Absent keys take timm's own defaults (bicubic, crop 0.875 from the centre, ImageNet mean and std). A grey spec gets
    the mean of the three means and of the three standard deviations.

    Args:
        pretrained_cfg: a model's ``pretrained_cfg``; read are ``interpolation``, ``crop_pct``, ``crop_mode``, ``mean``
            and ``std``.
        height_px: network input height.
        width_px: network input width.
        colour: of the network's input.

    Raises:
        InputError: the configuration cannot be expressed (Lanczos or random interpolation, a coloured border...).
    """
    name = pretrained_cfg.get("interpolation") or "bicubic"
    if name not in _TIMM_FILTERS:
        raise InputError(
            f"interpolation is {name!r}; allowed are {', '.join(_TIMM_FILTERS)}: choose the nearest of them"
        )
    mode = pretrained_cfg.get("crop_mode") or "center"
    if mode not in _TIMM_RESIZE:
        raise InputError(f"crop_mode is {mode!r}; allowed are {', '.join(_TIMM_RESIZE)}")
    mean = _per_channel(pretrained_cfg.get("mean") or _IMAGENET_MEAN, colour, "mean")
    if mode == "border" and any(mean):
        raise InputError("crop_mode 'border' pads with the mean colour; only padding with black can be expressed")
    return ImageSpec(
        height_px=height_px,
        width_px=width_px,
        colour=colour,
        mean=mean,
        std=_per_channel(pretrained_cfg.get("std") or _IMAGENET_STD, colour, "std"),
        resize=_TIMM_RESIZE[mode],
        filter=_TIMM_FILTERS[name],
        crop_fraction=float(pretrained_cfg.get("crop_pct") or _TIMM_CROP_FRACTION),
    )


def _per_channel(values: Sequence[float], colour: Colour, key: str) -> tuple[float, ...]:
    channels = tuple(float(value) for value in values)
    if len(channels) not in (1, 3):
        raise InputError(f"{key} has {len(channels)} values; 1 or 3 are allowed")
    if colour == "grey":
        return (sum(channels) / len(channels),)
    return channels if len(channels) == 3 else channels * 3


def _check_size(height: int, width: int, spec: ImageSpec) -> None:
    if min(height, width) < spec.min_side_px:
        raise ImageRefused(
            f"the image is {width}×{height} px; its shorter side must be at least {spec.min_side_px} px: "
            "give the image at its original size"
        )
    rows, columns = resized_size(height, width, spec)
    if rows * columns > MAX_RESIZED_PIXELS:
        raise ImageRefused(
            f"the image is {width}×{height} px, too elongated for this network: give the region of interest"
        )


def _planes(pixels: Pixels, spec: ImageSpec) -> list[FloatArray]:
    """One or three float32 planes in [0, 1]; a grey image for a colour network stays one plane until it is resized."""
    if not pixels.is_colour:
        return [_scaled(pixels.values, pixels)]
    channels = [_scaled(pixels.values[..., index], pixels) for index in range(3)]
    if spec.colour == "rgb":
        return channels
    red, green, blue = channels
    luma: FloatArray = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return [luma]


def _scaled(values: NDArray[Any], pixels: Pixels) -> FloatArray:
    # Divided, not multiplied by a reciprocal: x / 255 and (257 x) / 65535 are the same float32, so an 8-bit image and
    # its 16-bit copy give the same tensor.
    plane = values.astype(np.float32)
    if pixels.low != 0:
        plane -= np.float32(pixels.low)
    plane /= np.float32(pixels.high - pixels.low)
    return plane


def _fit(plane: FloatArray, spec: ImageSpec) -> FloatArray:
    resized = _resize(plane, resized_size(plane.shape[0], plane.shape[1], spec), spec.filter)
    return _centre(resized, spec.height_px, spec.width_px)


def resized_size(height: int, width: int, spec: ImageSpec) -> tuple[int, int]:
    """(height, width) after the resize and before the crop, with the rounding of timm and torchvision."""
    target_h = math.floor(spec.height_px / spec.crop_fraction)
    target_w = math.floor(spec.width_px / spec.crop_fraction)
    if spec.resize == "stretch":
        return target_h, target_w
    if spec.resize == "shortest" and target_h == target_w:  # torchvision.transforms.Resize(int)
        longer = int(target_h * max(height, width) / min(height, width))
        return (target_h, longer) if height <= width else (longer, target_h)
    choose = min if spec.resize == "shortest" else max  # timm's ResizeKeepRatio
    ratio = choose(height / target_h, width / target_w)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _resize(plane: FloatArray, size: tuple[int, int], name: Filter) -> FloatArray:
    if plane.shape == size:
        return plane
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(plane))
    method = {"nearest": Image.Resampling.NEAREST, "bilinear": Image.Resampling.BILINEAR}
    resized = image.resize((size[1], size[0]), method.get(name, Image.Resampling.BICUBIC))
    return np.asarray(resized, np.float32)


def _centre(plane: FloatArray, height: int, width: int) -> FloatArray:
    """Pad with 0 and crop about the centre; offsets as ``torchvision.transforms.functional.center_crop``."""
    short_h, short_w = max(0, height - plane.shape[0]), max(0, width - plane.shape[1])
    if short_h or short_w:
        before, after = (short_h // 2, short_w // 2), ((short_h + 1) // 2, (short_w + 1) // 2)
        plane = np.pad(plane, ((before[0], after[0]), (before[1], after[1])))
    top, left = round((plane.shape[0] - height) / 2), round((plane.shape[1] - width) / 2)
    return plane[top : top + height, left : left + width]
