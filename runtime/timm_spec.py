"""The image spec of a timm configuration, or why it has none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import Colour, Filter, ImageSpec, Resize

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_TIMM_CROP_FRACTION = 0.875
_TIMM_RESIZE: dict[str, Resize] = {"center": "shortest", "squash": "stretch", "border": "longest"}
_TIMM_FILTERS: dict[str, Filter] = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic"}


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
