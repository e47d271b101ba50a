"""`int8.rounding` on torch tensors: kernels of integers that keep their sums, to the same bits.

    min Σ (q − w)²   subject to   |Σ (q − w)| ≤ ½

over integers q next to w: round to nearest, then move the |n| weights that cost least one step towards the sum,
n = round(Σ w − Σ q). Here one weight of every kernel is moved at a time: n passes over all, and no sort.
"""

from __future__ import annotations

import torch
from torch import Tensor


def round_keeping_sums(weights: Tensor, limit: int) -> Tensor:
    """Integers (as float32) near ``weights`` whose sums over the last axis are at most half a step off.

    Args:
        weights: float32 in steps of their scale, ``[..., K]``, within ±``limit``.
        limit: largest magnitude, <= 127.
    """
    flat = weights.reshape(-1, weights.shape[-1])
    rounded = torch.round(flat).clamp(-limit, limit)
    if flat.shape[1] == 1:
        return rounded.reshape(weights.shape)
    steps = torch.round((flat - rounded).sum(1, dtype=torch.float64)).to(flat.dtype)
    rows = torch.nonzero(steps).flatten()
    moved, left = _moved(flat[rows], rounded[rows], steps[rows], limit), rounded.clone()
    left[rows] = moved
    return left.reshape(weights.shape)


def _moved(weights: Tensor, rounded: Tensor, steps: Tensor, limit: int) -> Tensor:
    """``rounded`` ``[n, K]``, with ``|steps|`` ``[n]`` weights of each row moved by one towards its sign."""
    direction = torch.sign(steps)[:, None]
    gain = (weights - rounded) * direction
    gain[(rounded + direction).abs() > limit] = -torch.inf
    rounded, remaining = rounded.clone(), steps.abs()
    for turn in range(int(remaining.max()) if len(remaining) else 0):
        best, where = gain.max(1, keepdim=True)
        allowed = (turn < remaining)[:, None] & (best > -torch.inf)
        rounded.scatter_add_(1, where, torch.where(allowed, direction, 0.0))
        gain.scatter_(1, where, -torch.inf)
    return rounded
