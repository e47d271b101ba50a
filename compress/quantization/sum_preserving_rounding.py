"""Rounding that keeps the sum of every kernel, because images are smooth and errors add up over a kernel.

Where an activation is locally constant, a convolution sees the sum of each kernel only. Rounding K weights to the
nearest integer leaves a sum wrong by √(K/12) steps; a first layer, whose filters often have a sum near 0, then answers
to brightness. So for every output and input channel

    min Σ (q − w)²   subject to   |Σ (q − w)| ≤ ½

over integers q next to w (w in steps of its scale): round to nearest, then move the |n| weights that cost least one
step towards the sum, n = round(Σ w − Σ q). The rest of the sums' error is a third of what it was or less, for any K.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def round_keeping_sums(weights: NDArray[np.floating], limit: int) -> NDArray[np.int8]:
    """Integers near ``weights`` whose sums over the last axis are at most half a step off, where ``limit`` allows.

    Args:
        weights: in steps of their scale, ``[..., K]``, within ±``limit``.
        limit: largest magnitude, <= 127.
    """
    flat = np.asarray(weights).reshape(-1, weights.shape[-1])
    rounded = np.clip(np.rint(flat), -limit, limit)
    missing = flat - rounded
    steps = np.rint(missing.sum(axis=1, dtype=np.float64))
    rows = np.flatnonzero(steps)
    direction = np.sign(steps[rows])[:, None]
    gain = missing[rows] * direction
    gain[np.abs(rounded[rows] + direction) > limit] = -np.inf
    order = np.argsort(-gain, axis=1, kind="stable")
    moved = np.arange(flat.shape[1]) < np.abs(steps[rows])[:, None]
    moved &= np.take_along_axis(gain, order, axis=1) > -np.inf
    change = np.zeros_like(gain)
    np.put_along_axis(change, order, moved * direction, axis=1)
    rounded[rows] += change
    return rounded.astype(np.int8).reshape(weights.shape)
