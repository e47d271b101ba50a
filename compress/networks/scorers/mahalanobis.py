r"""How far an embedding is from the mean of the normal ones, in standard deviations of theirs.

.. math:: s(q) = \sqrt{(q - \mu)^\top \Sigma^{-1} (q - \mu)} = \|R (q - \mu)\|, \qquad R^\top R = \Sigma^{-1}

μ and Σ the mean and the shrunk covariance of normal embeddings (`anomaly.shrinkage`); R is the inverse of Σ's Cholesky
factor. Mahalanobis 1936; of deep features: Lee et al. 2018, Rippel et al. 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.encoder import Encoder


class Mahalanobis(nn.Module):
    """See the top of the module."""

    output_names = ("logits",)
    mean: Tensor
    whitening: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("whitening", torch.eye(width))

    def forward(self, encoder: Encoder, images: Tensor) -> tuple[Tensor]:
        """Scores ``[n, 1]``."""
        whitened = (encoder.embedding(images) - self.mean) @ self.whitening.transpose(0, 1)
        return (whitened.square().sum(1, keepdim=True).sqrt(),)
