"""Which self-supervised task: MAE for plain ViTs, SimMIM for every network with a feature map."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import nn

from medfm_compress.compress.networks.masking import Masking
from medfm_compress.compress.pretrain import mae, simmim
from medfm_compress.compress.pretrain.masking import Masks
from medfm_compress.compress.pretrain.patch_geometry import geometry_of, mask_grid
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer


class MaskedTask(NamedTuple):
    """A learner and its masks.

    Attributes:
        learner: holds ``network``; its ``forward(batch)`` needs ``batch.extras["mask"]``.
        masks: what is hidden.
        settled: the masking with everything filled in.
    """

    learner: nn.Module
    masks: Masks
    settled: Masking


def make_masked_task(network: nn.Module, spec: ImageSpec, name: str, masking: Masking, seed: int) -> MaskedTask:
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
    return MaskedTask(learner, masks, Masking(method=method, ratio=ratio, patch_px=spec.height_px // grid[0]))
