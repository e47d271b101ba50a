"""Masks that metrics of overlap, distance and regions are held to: ordinary ones and those at the edge."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def blobs(seed: int, height: int = 60, width: int = 73, count: int = 4) -> Mask:
    """Some discs, which may touch each other and the border."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    for _ in range(count):
        centre_y, centre_x, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(2, 11)
        mask |= (y - centre_y) ** 2 + (x - centre_x) ** 2 <= radius**2
    return mask


def named_masks() -> dict[str, Mask]:
    """Masks of one size: noise, a pixel, a border, everything and several regions."""
    shape = blobs(0).shape
    corner, border, line, noise = (np.zeros(shape, bool) for _ in range(4))
    corner[0, 0] = True
    border[0], border[:, -1] = True, True
    line[30, 5:60] = True
    noise[:] = np.random.default_rng(3).random(shape) < 0.2
    return {
        "corner": corner,
        "border": border,
        "line": line,
        "noise": noise,
        "full": np.ones(shape, bool),
        **{f"blobs {seed}": blobs(seed) for seed in (1, 2, 3)},
    }


def pairs() -> list[tuple[Mask, Mask]]:
    """Every ordered pair of them."""
    return list(itertools.product(named_masks().values(), repeat=2))
