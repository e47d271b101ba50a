r"""The projection of an encoder that learned none: the first principal components of its feature maps at normal places.

.. math:: m_p = V_w^\top D^{-1} (x_p - \mu)

x the levels' channels at a place one below the other, μ their mean; D divides each level by its root mean square, so
that no level drowns the others; V_w the w eigenvectors of the greatest eigenvalues of the covariance of
:math:`D^{-1} (x - \mu)`. The first ℓ numbers are the best embedding of ℓ numbers in the sense of squares, so that the
lengths are nested. All is divided by the root mean square of what is kept: distances are then of the order of 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.encoder import Encoder, enlarged, finest_grid
from medfm_compress.compress.training.job import Images
from medfm_compress.compress.training.validation_score import logits_in_batches
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec

PLACES = 32
"""Of one image that are looked at, at most."""
_BATCH = 32


class _Levels(nn.Module):
    """Images → channels of all levels at some places ``[n · places, channels]``."""

    def __init__(self, encoder: Encoder, seed: int) -> None:
        super().__init__()
        self.encoder, self._generator = encoder, torch.Generator().manual_seed(seed)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.encoder.maps(images)
        grid = finest_grid(maps)
        joined = torch.cat([enlarged(level, grid) for level in maps], dim=1).flatten(2)
        chosen = torch.randperm(joined.shape[2], generator=self._generator)[:PLACES]
        return joined[:, :, chosen].transpose(1, 2).reshape(-1, joined.shape[1])


def project_on_principal_components(encoder: Encoder, images: Images, spec: ImageSpec, seed: int) -> float:
    """Set the projections of ``encoder`` in place; the share of the variance that they keep, in [0, 1].

    Args:
        encoder: whose projections mean nothing yet.
        images: of normal training cases, prepared, before normalisation.
        spec: its mean and standard deviation.
        seed: of the places that are looked at.

    Raises:
        ModelError: the feature maps are the same everywhere, or there are fewer places than numbers in the embedding.
    """
    rows = torch.cat(list(logits_in_batches(_Levels(encoder, seed), images, spec, size=_BATCH))).double()
    if len(rows) <= encoder.width or not torch.isfinite(rows).all():
        raise ModelError(
            f"an embedding of {encoder.width} numbers takes more than {encoder.width} finite places, and there are "
            f"{len(rows)}; give more normal images, or a smaller --length"
        )
    mean = rows.mean(0)
    levels = torch.split(rows - mean, encoder.channels, 1)
    scales = torch.cat([_root_mean_square(level).expand(level.shape[1]) for level in levels])
    scaled = (rows - mean) / scales
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    kept = values[: encoder.width].sum()
    weight = (vectors[:, : encoder.width].T / scales / kept.sqrt()).float()
    encoder.project_by(weight, -(weight.double() @ mean).float())
    return float(kept / values.sum())


def _root_mean_square(part: Tensor) -> Tensor:
    level = part.square().mean().sqrt()
    if level <= 0:
        raise ModelError("a feature map of the encoder is the same everywhere; give other --level, or other weights")
    return level
