r"""SimMIM: paint hidden cells over, and predict their pixels.

Xie et al. 2022, "SimMIM: a simple framework for masked image modeling".

.. math:: L = \frac{1}{|M|} \sum_{p \in M} \lvert \hat x_p - x_p \rvert, \qquad
          \hat x = \mathrm{shuffle}\bigl(W f(x') + b\bigr), \quad x'_p = t \text{ for } p \in M, \text{ else } x_p

x: normalised pixels; M: hidden pixels; t: a learned value a channel; f: the network up to its last feature map; W, b: a
1×1 convolution to stride² · channels values a cell, which the pixel shuffle (Shi et al. 2016) puts in their places.
Painting pixels instead of replacing tokens makes it one method for CNNs, ViTs and hybrids.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfm_compress.compress.networks.features import as_map
from medfm_compress.compress.pretrain.masking import enlarge
from medfm_compress.compress.pretrain.patch_geometry import Geometry
from medfm_compress.compress.training.job import Batch

RATIO = 0.6


class SimMIM(nn.Module):
    """A network, what hides pixels from it, and the layer that reads hidden pixels off its feature map.

    Attributes:
        network: what is pre-trained.
    """

    def __init__(self, network: nn.Module, geometry: Geometry) -> None:
        super().__init__()
        self.network, self._stride = network, geometry.stride
        self.paint = nn.Parameter(torch.zeros(1, geometry.channels, 1, 1))
        self.decoder = nn.Conv2d(geometry.features, geometry.channels * geometry.stride**2, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Mean absolute error on the pixels that ``batch.extras["mask"]`` hides; a scalar."""
        images = batch.images
        mask = enlarge(batch.extras["mask"], *images.shape[2:])
        inner = self.network.forward_features(torch.where(mask, self.paint, images))  # type: ignore[operator]
        guess = functional.pixel_shuffle(self.decoder(as_map(inner, self.network)), self._stride)
        error = (guess.float() - images).abs() * mask
        loss: Tensor = error.sum() / (mask.sum() * images.shape[1])
        return loss
