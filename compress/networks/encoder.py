r"""An encoder: an image becomes an embedding, and a map of embeddings, of numbers that distances are taken between.

Feature maps :math:`x_l` of some levels l of a network (Roth et al. 2022 take two of the middle) are projected, added:

.. math:: e = b + \sum_l W_l \overline{x_l}, \qquad m_p = b + \sum_l \mathrm{up}(W_l x_l)_p,
          \qquad a_p = \overline{m_{N(p)}}

:math:`\overline{x_l}` the mean over places, up bilinear to the grid of the finest level, N(p) the 3 × 3 places around
p. To project first and enlarge afterwards gives the same, for both are linear, and takes fewer operations. The means of
several levels as an embedding: Rippel et al. 2021, "Modeling the distribution of normal data in pre-trained features".
The first ℓ numbers are an embedding themselves: the projection is of principal components, or learned so.
"""

from __future__ import annotations

from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.runtime.errors import ModelError

_FINE, _COARSE = 8, 16
"""Strides of the levels that are taken where nobody says which."""


class EncoderPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an encoder is built.

    Attributes:
        network: a timm network; its classifier is left out.
        levels: numbers of its feature maps, ascending, from 0.
        channels: of each of them.
        width: numbers of the embedding.
    """

    network: Architecture
    levels: tuple[int, ...]
    channels: tuple[int, ...]
    width: int


class Encoder(nn.Module):
    """A network's feature maps, projected; see the top of the module.

    Attributes:
        network: up to the last level that is read.
        width: numbers of the embedding.
    """

    def __init__(self, network: nn.Module, plan: EncoderPlan) -> None:
        """``network`` is changed: what lies behind the last level is taken away."""
        super().__init__()
        check_encoder(network, plan.network.name)
        levels = list(plan.levels)
        network.prune_intermediate_layers(levels, prune_norm=True, prune_head=True)  # type: ignore[operator]
        self.network, self.levels, self.width = network, levels, plan.width
        self.projections = nn.ModuleList(
            nn.Conv2d(channels, plan.width, 1, bias=number == 0) for number, channels in enumerate(plan.channels)
        )

    def maps(self, images: Tensor) -> list[Tensor]:
        """Feature maps ``[n, c, h, w]`` of each level, of normalised images ``[n, channels, height, width]``."""
        maps: list[Tensor] = self.network.forward_intermediates(  # type: ignore[operator]
            images, indices=self.levels, norm=False, stop_early=True, intermediates_only=True
        )
        return maps

    def embedding(self, images: Tensor) -> Tensor:
        """``[n, width]``."""
        return self.embedding_of(self.maps(images))

    def embedding_of(self, maps: list[Tensor]) -> Tensor:
        """``[n, width]`` of what `maps` gives."""
        means = (
            project(level.mean((2, 3), keepdim=True)) for project, level in zip(self.projections, maps, strict=True)
        )
        return total(list(means)).flatten(1)

    def places(self, images: Tensor) -> Tensor:
        """``[n, width, h, w]``, on the grid of the finest level."""
        return self.places_of(self.maps(images))

    def places_of(self, maps: list[Tensor]) -> Tensor:
        """``[n, width, h, w]`` of what `maps` gives."""
        projected = [project(level) for project, level in zip(self.projections, maps, strict=True)]
        grid = max((tuple(level.shape[2:]) for level in maps), key=lambda size: size[0] * size[1])
        return neighbourhood_means(total([enlarged(level, grid) for level in projected]))

    def forward(self, images: Tensor) -> Tensor:
        """The embedding ``[n, width]``."""
        return self.embedding(images)


def total(parts: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def enlarged(level: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[n, c, h, w]`` bilinear on ``grid``; itself where it has that size."""
    if tuple(level.shape[2:]) == grid:
        return level
    return functional.interpolate(level, size=grid, mode="bilinear", align_corners=False)


def neighbourhood_means(grid: Tensor) -> Tensor:
    """Each place's mean with its neighbours, 3 × 3 and fewer at the border, of ``[n, c, h, w]``."""
    return functional.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)


def create_encoder(plan: EncoderPlan) -> Encoder:
    """An untrained encoder in eval mode.

    Raises:
        ModelError: its network cannot be built, or gives no feature maps.
    """
    from medfm_compress.compress.networks.model import create_module

    return Encoder(create_module(plan.network), plan).eval()


def check_encoder(network: nn.Module, name: str) -> None:
    """Raises ModelError where a network does not give feature maps of its levels."""
    if not (hasattr(network, "forward_intermediates") and hasattr(network, "prune_intermediate_layers")):
        raise ModelError(
            f"{name} gives no feature maps of its stages, as most classifiers of timm do; give one of them, e.g. "
            "resnet18, mobilenetv3_small_100 or vit_tiny_patch16_224"
        )


def plan_encoder(
    network: nn.Module, architecture: Architecture, shape: tuple[int, ...], levels: tuple[int, ...], width: int
) -> EncoderPlan:
    """The plan of an encoder made of ``network``.

    Args:
        network: a timm network, left as it is.
        architecture: how it was built.
        shape: of one image, ``[1, channels, height, width]``.
        levels: numbers of feature maps; without any the last of stride 8 and of stride 16, of a network of one stride
            its two thirds and its last.
        width: numbers of the embedding; 0 is as many as the maps have channels together.

    Raises:
        ModelError: the network gives no feature maps, or a level that it does not have.
    """
    check_encoder(network, architecture.name)
    with torch.inference_mode():
        every: list[Tensor] = network.forward_intermediates(  # type: ignore[operator]
            torch.zeros(shape), norm=False, intermediates_only=True
        )
    if not levels:
        levels = _usual_levels([shape[2] // level.shape[2] for level in every])
    if list(levels) != sorted(set(levels)) or not 0 <= levels[0] <= levels[-1] < len(every):
        raise ModelError(
            f"levels are {', '.join(map(str, levels))}; {architecture.name} has feature maps 0 to {len(every) - 1}: "
            "name some of them, each once and ascending"
        )
    channels = tuple(int(every[level].shape[1]) for level in levels)
    return EncoderPlan(network=architecture, levels=levels, channels=channels, width=width or sum(channels))


def _usual_levels(strides: list[int]) -> tuple[int, ...]:
    last = {stride: number for number, stride in enumerate(strides)}
    if len(last) > 1:
        chosen = tuple(last[stride] for stride in (_FINE, _COARSE) if stride in last)
        return chosen or (len(strides) - 2, len(strides) - 1)
    return tuple(sorted({2 * len(strides) // 3 - 1, len(strides) - 1} - {-1}))


def shortened(encoder: Encoder, plan: EncoderPlan, length: int) -> tuple[Encoder, EncoderPlan]:
    """A copy whose embedding is the first ``length`` numbers, and its plan.

    Raises:
        ModelError: it has not as many.
    """
    if not 1 <= length <= plan.width:
        raise ModelError(f"the length is {length}; the encoder's embedding has {plan.width} numbers: give 1 to that")
    short = msgspec.structs.replace(plan, width=length)
    copied = create_encoder(short)
    state: dict[str, Any] = {
        name: value[:length] if name.startswith("projections.") else value
        for name, value in encoder.state_dict().items()
    }
    copied.load_state_dict(state)
    return copied, short
