"""Optical density, and which pixels are tissue.

    OD = −ln((255 x + 1) / 240)            x in [0, 1] of one channel; 240 is the light where nothing absorbs (I₀)
    tissue: OD ≥ β in red, green and blue, β = 0.15

Source: Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009; I₀ = 240 and
natural logarithms as its usual implementations have them. Adding 1 keeps black finite.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

LIGHT = 240.0
BETA = 0.15
MIN_TISSUE = 0.05
"""Share of an image's pixels that must be tissue, so that its stains can be told."""


def optical_density(pixels: NDArray[np.floating]) -> FloatArray:
    """OD, float64 of the shape of ``pixels``, which are in [0, 1]; filters may overshoot, and are clipped."""
    density: FloatArray = -np.log((255.0 * np.clip(pixels, 0, 1).astype(np.float64) + 1.0) / LIGHT)
    return density


def light(density: FloatArray) -> FloatArray:
    """What an optical density lets through, in [0, 1]: the inverse of :func:`optical_density`, clipped."""
    return np.clip((LIGHT * np.exp(-density) - 1.0) / 255.0, 0.0, 1.0)


def tissue(density: FloatArray) -> NDArray[np.bool_]:
    """Which rows of ``density`` ``[n, 3]`` are tissue, bool ``[n]``."""
    return np.asarray((density >= BETA).all(axis=1))
