"""Augmentation that respects the modality: small rigid motion and exposure changes, flips only where anatomy allows.

A view is a table of parameters, one row a case, drawn from a seed; the same seed gives the same view on any machine and
at any resolution, so that a teacher's outputs on it can be computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import torch
from torch import Tensor
from torch.nn import functional

from medfm_compress.runtime.errors import InputError


class Augmentation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ranges that a view is drawn from; every value is a half-width around 'unchanged'.

    Attributes:
        rotation_deg: rotation.
        scale: relative zoom.
        shift: translation, as a fraction of the side.
        contrast: relative contrast about mid-grey.
        brightness: offset, in units of [0, 1].
        gamma: exponent, as a factor ``exp(±gamma)``.
        noise: standard deviation of white noise at most, in units of [0, 1].
        flip_horizontal: mirror half of the cases.
        flip_vertical: likewise, and quarter turns.
    """

    rotation_deg: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    contrast: float = 0.0
    brightness: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    flip_horizontal: bool = False
    flip_vertical: bool = False


_FREE = {"flip_horizontal": True, "flip_vertical": True}
_MODALITIES: dict[str, Augmentation] = {
    "none": Augmentation(),
    # No mirror: the heart lies left, and a marker's letter must stay readable.
    "radiograph": Augmentation(
        rotation_deg=10, scale=0.12, shift=0.06, contrast=0.25, brightness=0.1, gamma=0.25, noise=0.02
    ),
    "dermoscopy": Augmentation(rotation_deg=180, scale=0.2, shift=0.1, contrast=0.15, brightness=0.08, **_FREE),
    "histology": Augmentation(rotation_deg=180, scale=0.1, shift=0.05, contrast=0.15, brightness=0.08, **_FREE),
    "endoscopy": Augmentation(rotation_deg=180, scale=0.2, shift=0.1, contrast=0.2, brightness=0.1, **_FREE),
}


def augmentation_for(modality: str) -> Augmentation:
    """The ranges for one modality.

    Raises:
        InputError: an unknown modality.
    """
    if modality not in _MODALITIES:
        raise InputError(f"modality is {modality!r}; it must be one of {', '.join(_MODALITIES)}")
    return _MODALITIES[modality]


class View(msgspec.Struct, frozen=True):
    """Parameters of one augmented view of ``n`` cases.

    Attributes:
        affine: ``[n, 2, 3]`` sampling matrices in normalised coordinates.
        tone: ``[n, 3]``: contrast factor, brightness offset, gamma exponent.
        noise: ``[n]`` standard deviations.
        seed: of the noise.
    """

    affine: Tensor
    tone: Tensor
    noise: Tensor
    seed: int


def draw_view(augmentation: Augmentation, cases: int, seed: int) -> View:
    """Draw the parameters of one view of ``cases`` cases."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(cases, 8, generator=generator) * 2 - 1
    coins = torch.rand(cases, 2, generator=generator) < 0.5
    angle = uniform[:, 0] * math.radians(augmentation.rotation_deg)
    zoom = 1 + uniform[:, 1] * augmentation.scale
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    mirror_x = torch.where(coins[:, 0] & augmentation.flip_horizontal, -1.0, 1.0)
    mirror_y = torch.where(coins[:, 1] & augmentation.flip_vertical, -1.0, 1.0)
    shift = uniform[:, 2:4] * 2 * augmentation.shift
    rows = (cos * mirror_x, -sin * mirror_y, shift[:, 0], sin * mirror_x, cos * mirror_y, shift[:, 1])
    tone = torch.stack(
        (
            1 + uniform[:, 4] * augmentation.contrast,
            uniform[:, 5] * augmentation.brightness,
            torch.exp(uniform[:, 6] * augmentation.gamma),
        ),
        dim=1,
    )
    noise = uniform[:, 7].abs() * augmentation.noise
    return View(torch.stack(rows, dim=1).reshape(-1, 2, 3), tone, noise, seed)


def apply_view(images: Tensor, view: View, index: Tensor) -> Tensor:
    """Augment a batch.

    Args:
        images: ``[b, channels, height, width]`` float32 in [0, 1].
        view: parameters of all cases.
        index: ``[b]`` int64, which rows of the view the batch is.

    Returns:
        Float32 of the same shape, in [0, 1].
    """
    affine, tone = view.affine[index].to(images.device), view.tone[index].to(images.device)
    grid = functional.affine_grid(affine, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    contrast, brightness, gamma = (tone[:, i].reshape(-1, 1, 1, 1) for i in range(3))
    toned = ((moved - 0.5) * contrast + 0.5 + brightness).clamp(0, 1).pow(gamma)
    if not view.noise.any():
        return toned
    noise = _white_noise(view.seed, index, images.shape[1:], images.device)
    return (toned + noise * view.noise[index].to(images.device).reshape(-1, 1, 1, 1)).clamp(0, 1)


def move_maps(maps: Tensor, view: View, index: Tensor) -> Tensor:
    """Label maps, moved as `apply_view` moves the images that they are of.

    Args:
        maps: ``[b, height, width]`` uint8, at any size.
        view: parameters of all cases.
        index: ``[b]`` int64, which rows of the view the batch is.

    Returns:
        Likewise, the nearest pixel's value; 0 where the image is black because it has moved away.
    """
    affine = view.affine[index].to(maps.device)
    planes = maps[:, None].float()
    grid = functional.affine_grid(affine, list(planes.shape), align_corners=False)
    moved = functional.grid_sample(planes, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return moved.squeeze(1).to(maps.dtype)


class CycledViews:
    """The views of a training run: epoch → seed → view of all ``cases``."""

    def __init__(self, augmentation: Augmentation, cases: int, seed_of: Callable[[int], int]) -> None:
        self._augmentation, self._cases, self._seed_of = augmentation, cases, seed_of
        self._epoch, self._view = 0, draw_view(augmentation, cases, seed_of(0))

    def apply(self, images: Tensor, epoch: int, index: Tensor) -> Tensor:
        """See `apply_view`; ``epoch`` decides the view."""
        return apply_view(images, self._of(epoch), index)

    def move(self, maps: Tensor, epoch: int, index: Tensor) -> Tensor:
        """See `move_maps`; the view is the one that the images have."""
        return move_maps(maps, self._of(epoch), index)

    def _of(self, epoch: int) -> View:
        if self._epoch != epoch:
            self._epoch, self._view = epoch, draw_view(self._augmentation, self._cases, self._seed_of(epoch))
        return self._view


def view_seed(seed: int, number: int) -> int:
    """Seed of view ``number`` of a run with ``seed``."""
    return seed * 100_003 + number


_MASK = 0xFFFFFFFF


def _white_noise(seed: int, index: Tensor, shape: torch.Size, device: torch.device) -> Tensor:
    """Noise ``[b, *shape]`` of variance 1 that depends on seed and case alone, not on its batch, nor on the device.

    Integers are hashed (the 32-bit mixer of C. Wellons' hash prospector, "lowbias32"); the sum of a hash's four bytes
    is nearly normal.
    """
    keys = _mixed((index * 0x9E3779B1 + seed) & _MASK).to(device).reshape(-1, 1)
    bits = _mixed((torch.arange(shape.numel(), device=device) * 0x85EBCA6B & _MASK) ^ keys)
    total = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24)
    return ((total.float() - 510) / 147.8).reshape(-1, *shape)


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ (x >> 16)) * 0x7FEB352D & _MASK
    x = (x ^ (x >> 15)) * 0x846CA68B & _MASK
    return x ^ (x >> 16)
