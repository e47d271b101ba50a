"""Which self-supervised task: MAE for plain ViTs, SimMIM for every network with a feature map."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import msgspec
import torch
from torch import nn

from medfm_compress.compress.pretrain import mae, simmim
from medfm_compress.compress.pretrain.geometry import geometry_of, mask_grid
from medfm_compress.compress.pretrain.mask import Masks, check_ratio
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

METHODS = ("auto", "mae", "simmim")


class Masking(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is hidden from the network, and how it answers.

    Attributes:
        method: ``mae``, ``simmim``, or ``auto``: mae for a plain ViT, else simmim.
        ratio: fraction of an image that is hidden; None takes the method's own, 0.75 for mae and 0.6 for simmim.
        patch_px: side of the squares that are hidden; 0 takes the network's patches for mae, and for simmim the largest
            that leave six along a side.
    """

    method: str = "auto"
    ratio: float | None = None
    patch_px: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method is {self.method!r}; it must be one of {', '.join(METHODS)}")
        if self.ratio is not None:
            check_ratio(self.ratio)
        if self.patch_px < 0:
            raise InputError(f"mask patch is {self.patch_px} px; it must be 0 (left to the method) or more")


class Puzzle(NamedTuple):
    """A learner and its masks.

    Attributes:
        learner: holds ``network``; its ``forward(batch)`` needs ``batch.extras["mask"]``.
        masks: what is hidden.
        settled: the masking with everything filled in.
    """

    learner: nn.Module
    masks: Masks
    settled: Masking


def make_puzzle(network: nn.Module, spec: ImageSpec, name: str, masking: Masking, seed: int) -> Puzzle:
    """Fill in what ``masking`` leaves open, and build the learner around ``network``.

    Raises:
        ModelError: a network that the method does not apply to, or an image that is no multiple of its stride.
        InputError: a ratio or a patch that does not fit.
    """
    geometry = geometry_of(network, spec, name)
    reason = mae.why_not(network)
    if masking.method == "mae" and reason:
        raise ModelError(f"mae does not apply to {name}: {reason}; use --method simmim")
    method = ("simmim" if reason else "mae") if masking.method == "auto" else masking.method
    ratio = (mae.RATIO if method == "mae" else simmim.RATIO) if masking.ratio is None else masking.ratio
    grid = mask_grid(geometry, spec, masking.patch_px, whole=method == "mae")
    masks = Masks(grid, ratio, seed)
    torch.manual_seed(seed)
    geometry = geometry.under(masks)
    learner: nn.Module
    if method == "mae":
        learner = mae.MAE(cast("VisionTransformer", network), geometry)
    else:
        learner = simmim.SimMIM(network, geometry)
    return Puzzle(learner, masks, Masking(method=method, ratio=ratio, patch_px=spec.height_px // grid[0]))
