r"""A covariance of few cases, drawn towards a sphere.

Ledoit & Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices".

.. math:: \hat\Sigma = (1 - \rho) S + \rho m I, \quad m = \tfrac{1}{d} \mathrm{tr} S, \quad
          \delta^2 = \tfrac{1}{d} \|S - m I\|_F^2, \quad
          \beta^2 = \min\Bigl(\delta^2, \tfrac{1}{d n^2} \sum_i \|x_i x_i^\top - S\|_F^2\Bigr), \quad
          \rho = \beta^2 / \delta^2

x the n centred rows, d their width, S their covariance with divisor n. The sum is
:math:`\sum_i \|x_i\|^4 - n \|S\|_F^2`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medfm_compress.runtime.errors import StudyError


class Shrunk(NamedTuple):
    """Mean ``[d]``, covariance ``[d, d]`` float64, and how far it was drawn, ρ in [0, 1]."""

    mean: Tensor
    covariance: Tensor
    shrinkage: float


def shrunk_covariance(rows: Tensor) -> Shrunk:
    """Of ``rows`` ``[n, d]``, at least two; see the top of the module."""
    wide = rows.double()
    mean = wide.mean(0)
    centred, count, width = wide - mean, len(wide), wide.shape[1]
    sample = centred.T @ centred / count
    level = float(sample.trace()) / width
    sphere = level * torch.eye(width, dtype=torch.float64)
    spread = float((sample - sphere).square().sum()) / width
    noise = float(centred.square().sum(1).square().sum() - count * sample.square().sum()) / (width * count**2)
    shrinkage = min(1.0, max(0.0, noise) / spread) if spread > 0 else 1.0
    return Shrunk(mean, (1 - shrinkage) * sample + shrinkage * sphere, shrinkage)


def whitening(covariance: Tensor) -> Tensor:
    """R ``[d, d]`` float32 with RᵀR the inverse of ``covariance``.

    Raises:
        StudyError: it has none: the cases differ in fewer directions than an embedding has numbers.
    """
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed) or not torch.isfinite(lower).all() or float(lower.diagonal().min()) <= 0:
        raise StudyError(
            f"the normal training images differ in fewer than the {len(covariance)} directions of the embedding (are "
            "many of them the same?); give more different ones, a smaller --length, or --scorer knn"
        )
    inverse: Tensor = torch.linalg.solve_triangular(lower, torch.eye(len(lower), dtype=lower.dtype), upper=False)
    return inverse.float()
