"""Images of two dyes, as of a section stained with hematoxylin and eosin."""

from __future__ import annotations

import numpy as np

HE = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
UNIT = HE / np.linalg.norm(HE, axis=0)


def stained(seed: int = 0, side: int = 48, matrix: np.ndarray = UNIT, scale: tuple = (1.5, 0.8)) -> np.ndarray:
    """An image of two dyes in known amounts, uint8 RGB; a quarter of it is glass."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(2.0, 0.5, (side * side, 2)) * scale
    amounts[rng.random(len(amounts)) < 0.2, 0] = 0
    amounts[rng.random(len(amounts)) < 0.2, 1] = 0
    amounts[: side * side // 4] = 0
    return np.clip(240 * np.exp(-amounts @ matrix.T) - 1, 0, 255).astype(np.uint8).reshape(side, side, 3)
