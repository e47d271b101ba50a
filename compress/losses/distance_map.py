r"""Signed Euclidean distance to the border of a mask, exact, in pixels.

.. math:: \phi(x) = \min_{y \in M} |x - y| \text{ outside } M, \quad -\min_{y \notin M} |x - y| \text{ inside}

in two passes, :math:`d^2(i, j) = \min_r \left( (i - r)^2 + g(r, j)^2 \right)` with g the distance within row r.
Source: Felzenszwalb & Huttenlocher 2012, "Distance transforms of sampled functions"; the second pass takes the minimum
over all rows at once, not their lower envelope.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 32  # of the second pass at once, so that memory stays bounded


def signed_distance(mask: Tensor) -> Tensor:
    """Float32 ``[n, h, w]`` of bool ``[n, h, w]``: negative inside; 0 throughout where there is no border."""
    inside, outside = _distance_to(~mask), _distance_to(mask)
    bordered = (mask.flatten(1).any(1) & (~mask).flatten(1).any(1))[:, None, None]
    return torch.where(bordered, torch.where(mask, -inside, outside), torch.zeros_like(inside))


def _distance_to(mask: Tensor) -> Tensor:
    """Distance of every pixel to the nearest of ``mask``; larger than any image where there is none."""
    height = mask.shape[1]
    squared = _within_rows(mask).square()
    rows = torch.arange(height, device=mask.device, dtype=torch.float32)
    parts = []
    for chunk in torch.split(rows, _ROWS):
        offsets = (chunk[:, None] - rows[None, :]).square()  # [chunk, h]
        parts.append((squared[:, None] + offsets[None, :, :, None]).amin(2))
    return torch.cat(parts, dim=1).sqrt()


def _within_rows(mask: Tensor) -> Tensor:
    """Distance along its row to the nearest pixel of ``mask``."""
    width = mask.shape[2]
    far = float(mask.shape[1] + width)
    place = torch.arange(width, device=mask.device, dtype=torch.float32).expand(mask.shape)
    before = torch.where(mask, place, -far).cummax(2).values
    after = torch.where(mask, place, width + far).flip(2).cummin(2).values.flip(2)
    return torch.minimum(place - before, after - place).clamp(max=far)
