"""What a network knows besides its logits: embedding, last feature map, attention map, distillation token.

==============  =================  ======================================================================
``embedding``   ``[n, d]``         what enters the classifier, pooled
``map``         ``[n, c, h, w]``   the last feature map; tokens are put back on their grid
``attention``   ``[n, h, w]``      mean square of the map over its channels (Zagoruyko & Komodakis 2017),
                                   divided by its Euclidean norm
``token``       ``[n, labels]``    logits of a distillation token (Touvron et al. 2021), in training only
==============  =================  ======================================================================

Read through ``forward_features`` and ``forward_head``, which every timm network has; of a network with an encoder and
a decoder, ``map`` is the encoder's deepest, and there is no embedding.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfm_compress.compress.networks.fusion.network import FusionNetwork
from medfm_compress.compress.networks.inputs import Inputs, example, images_in
from medfm_compress.compress.networks.token_merging import merged_tokens

FEATURES = ("embedding", "map", "attention", "token")
_MAPS = ("map", "attention")
_EPSILON = 1e-12


class Outputs(NamedTuple):
    """Logits ``[n, labels]`` and the features that were wanted."""

    logits: Tensor
    features: dict[str, Tensor]


class Tapped(nn.Module):
    """A network that also gives features; its logits are the network's own."""

    def __init__(self, network: nn.Module, requested: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.requested = network, requested

    def forward(self, inputs: Inputs) -> Outputs:
        """Logits and features of normalised images ``[n, channels, height, width]``, and of the columns beside them."""
        if not self.requested:
            return Outputs(self.network(inputs), {})
        if isinstance(self.network, FusionNetwork):
            return self._fused(self.network, inputs)
        images = images_in(inputs)
        if is_encoder_decoder(self.network):
            return self._decoded(images)
        inner = self.network.forward_features(images)  # type: ignore[operator]
        logits = self.network.forward_head(inner)  # type: ignore[operator]
        features: dict[str, Tensor] = {}
        if isinstance(logits, tuple):  # class token and distillation token, while the latter learns
            logits, token = logits
            features["token"] = token
        if "embedding" in self.requested:
            features["embedding"] = self.network.forward_head(inner, pre_logits=True).flatten(1)  # type: ignore[operator]
        if any(name in self.requested for name in _MAPS):
            features.update(self._maps(inner, self.network))
        return Outputs(logits, {name: features[name] for name in self.requested if name in features})

    def _decoded(self, images: Tensor) -> Outputs:
        maps = self.network.encoder(images)  # type: ignore[operator]
        logits = self.network.segmentation_head(self.network.decoder(maps))  # type: ignore[operator]
        features = {"map": maps[-1], "attention": attention_of(maps[-1])}
        return Outputs(logits, {name: features[name] for name in self.requested if name in features})

    def _fused(self, network: FusionNetwork, inputs: Inputs) -> Outputs:
        """The embedding and the maps are the encoder's, before the columns join."""
        inner = network.encoder.forward_features(images_in(inputs))  # type: ignore[operator]
        embedding = network.encoder.forward_head(inner, pre_logits=True)  # type: ignore[operator]
        features = {"embedding": embedding, **self._maps(inner, network.encoder)}
        logits = network.fuse(embedding, network.in_order(inputs))
        return Outputs(logits, {name: features[name] for name in self.requested if name in features})

    @staticmethod
    def _maps(inner: Tensor, network: nn.Module) -> dict[str, Tensor]:
        grid = as_map(inner, network)
        return {} if grid is None else {"map": grid, "attention": attention_of(grid)}


def tapped(network: nn.Module, requested: tuple[str, ...]) -> Tapped:
    """A network that also gives ``requested`` features; a distillation token answers on its own from then on."""
    if "token" in requested and not isinstance(network, FusionNetwork):
        network.set_distilled_training(True)  # type: ignore[operator]
    return Tapped(network, requested)


def offered(network: nn.Module, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of one case's features, without the batch axis, of a network on images of ``shape`` ``[n, c, h, w]``."""
    encoder = network.encoder if isinstance(network, FusionNetwork) else network
    timm_like = hasattr(encoder, "forward_features") and hasattr(encoder, "forward_head")
    if not (timm_like or is_encoder_decoder(network)):
        return {}
    was_training = network.training
    with torch.inference_mode():
        outputs = Tapped(nn.Module.eval(network), ("embedding", *_MAPS))(example(network, torch.zeros(1, *shape[1:])))
    network.train(was_training)
    shapes = {name: tuple(value.shape[1:]) for name, value in outputs.features.items()}
    if hasattr(network, "set_distilled_training"):
        shapes["token"] = tuple(outputs.logits.shape[1:])
    return shapes


def is_encoder_decoder(network: nn.Module) -> bool:
    """Whether a network is built as those of segmentation-models-pytorch are."""
    return all(hasattr(network, part) for part in ("encoder", "decoder", "segmentation_head"))


def as_map(inner: object, network: nn.Module) -> Tensor | None:
    """Feature map ``[n, c, h, w]`` of what ``forward_features`` gives; None where tokens lie on no square grid."""
    if not isinstance(inner, Tensor):  # CrossViT gives a list, a scale each
        return None
    if merged_tokens(network):  # where a merged token lies is not known, even if their number is a square
        return None
    if inner.ndim == 4:
        channels = getattr(network, "num_features", None)
        last = inner.shape[3] == channels and inner.shape[1] != channels
        return inner.permute(0, 3, 1, 2) if last else inner
    if inner.ndim != 3:
        return None
    tokens = inner[:, int(getattr(network, "num_prefix_tokens", 0)) :]
    height, width = _grid(network, tokens.shape[1])
    if height * width != tokens.shape[1]:
        return None
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def _grid(network: nn.Module, tokens: int) -> tuple[int, int]:
    grid = getattr(getattr(network, "patch_embed", None), "grid_size", None)
    if grid is not None and grid[0] * grid[1] == tokens:
        return int(grid[0]), int(grid[1])
    side = math.isqrt(tokens)
    return side, side


def attention_of(grid: Tensor) -> Tensor:
    """Normalised attention map ``[n, h, w]`` float32 of a feature map ``[n, c, h, w]``."""
    energy = grid.float().square().mean(1)
    return functional.normalize(energy.flatten(1), dim=1, eps=_EPSILON).reshape(energy.shape)


def family_of(network: nn.Module) -> str:
    """``cnn``, ``vit`` or ``hybrid``, by the layers that a network has; empty for one of neither kind."""
    attends = any("attention" in type(module).__name__.lower() for module in network.modules()) or any(
        hasattr(module, "qkv") or hasattr(module, "qkv_proj") for module in network.modules()
    )
    kernels = [module for module in network.modules() if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)]
    if attends:
        return "hybrid" if len(kernels) > 1 else "vit"  # a ViT's only larger kernel cuts the patches
    return "cnn" if kernels else ""
