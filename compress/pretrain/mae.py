r"""MAE: a ViT sees the visible patches alone, and a small decoder predicts the hidden ones.

He et al. 2022, "Masked autoencoders are scalable vision learners".

.. math:: L = \frac{1}{|M|} \sum_{i \in M} \frac{1}{d} \Bigl\lVert \hat x_i -
          \frac{x_i - \mu_i}{\sqrt{\sigma_i^2 + \varepsilon}} \Bigr\rVert^2

M: hidden patches; x_i: the d normalised pixels of patch i; μ_i, σ_i: their mean and standard deviation. Three quarters
of the patches are hidden, so the encoder costs a quarter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfm_compress.compress.pretrain.masking import enlarge
from medfm_compress.compress.pretrain.patch_geometry import Geometry
from medfm_compress.compress.training.job import Batch

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

RATIO = 0.75
_EPSILON = 1e-6
_HEAD = 32  # channels of a head of the decoder
_WIDEST = 512
_DEPTH = 2


class MAE(nn.Module):
    """A ViT and its decoder.

    Attributes:
        network: what is pre-trained.
        place: position embedding of the decoder ``[tokens, width]``.
    """

    place: Tensor

    def __init__(self, network: VisionTransformer, geometry: Geometry) -> None:
        from timm.layers import build_sincos2d_pos_embed
        from timm.models.vision_transformer import Block

        super().__init__()
        self.network, self._patch, self._grid = network, geometry.stride, geometry.map_size
        self._visible = geometry.visible
        width = min(max(geometry.features // 2 // _HEAD, 2) * _HEAD, _WIDEST)
        self.embed = nn.Linear(geometry.features, width)
        self.hidden = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.register_buffer("place", build_sincos2d_pos_embed(list(self._grid), width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, width // _HEAD, qkv_bias=True) for _ in range(_DEPTH)))
        self.norm = nn.LayerNorm(width)
        self.predict = nn.Linear(width, geometry.channels * geometry.stride**2)

    def forward(self, batch: Batch) -> Tensor:
        """Mean squared error on the patches that ``batch.extras["mask"]`` hides; a scalar."""
        mask = enlarge(batch.extras["mask"], *self._grid).flatten(1)
        order = mask.int().argsort(dim=1, stable=True)  # visible patches first
        guess = self._decode(self._encode(batch.images, order[:, : self._visible]), order)
        patches = functional.unfold(batch.images, self._patch, stride=self._patch).transpose(1, 2)
        target = _standardised(_pick(patches, order[:, self._visible :]))
        loss: Tensor = (guess.float() - target).square().mean()
        return loss

    def _encode(self, images: Tensor, seen: Tensor) -> Tensor:
        """Tokens ``[b, prefix + visible, features]``: timm's forward pass, ``seen`` in patch dropout's place."""
        network = self.network
        tokens = network._pos_embed(network.patch_embed(images))
        prefix = network.num_prefix_tokens
        kept = torch.cat((tokens[:, :prefix], _pick(tokens[:, prefix:], seen)), dim=1)
        encoded: Tensor = network.norm(network.blocks(network.norm_pre(kept)))
        return encoded

    def _decode(self, encoded: Tensor, order: Tensor) -> Tensor:
        """Values ``[b, hidden, patch² · channels]`` of the hidden patches, in their order."""
        tokens, prefix = self.embed(encoded), self.network.num_prefix_tokens
        missing = self.hidden.to(tokens.dtype).expand(len(order), order.shape[1] - self._visible, -1)
        patches = torch.cat((tokens[:, prefix:], missing), dim=1) + self.place[order].to(tokens.dtype)
        decoded: Tensor = self.blocks(torch.cat((tokens[:, :prefix], patches), dim=1))
        values: Tensor = self.predict(self.norm(decoded[:, prefix + self._visible :]))
        return values


def why_not(network: nn.Module) -> str:
    """Why MAE does not apply to a network; empty where it does."""
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(network, VisionTransformer):
        return "it is no plain ViT, which could be shown a part of its patches"
    if not isinstance(network.patch_embed, PatchEmbed):
        return "its patches are cut from a convolution's output, which has seen the hidden ones"
    if network.pos_embed is None:
        return "it has no position embedding, so it could not tell which patches it sees"
    return ""


def _pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Tokens ``[b, k, d]`` of ``[b, n, d]``, those that ``index`` ``[b, k]`` names."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))


def _standardised(patches: Tensor) -> Tensor:
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + _EPSILON).sqrt()
