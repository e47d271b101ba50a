"""Reinhard's colour transfer in lαβ, statistics taken over tissue.

    (L, M, S) = log₁₀(M_LMS · RGB)        RGB = (255 x + 1) / 256, so that black stays finite
    l = (L + M + S) / √3        α = (L + M − 2 S) / √6        β = (L − M) / √2
    v' = (v − mean) · reference std / std + reference mean        for v = l, α, β; applied to every pixel

Source: Reinhard et al., Color transfer between images, IEEE Computer Graphics and Applications 21(5), 2001, equations
4, 6 and 10. Mean and std are of pixels that are tissue (`optical_density`), or the share of glass in an image would
decide its colour.

The colours of an image cannot be told where less than 5% of its pixels are tissue, or where it is all of one colour.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medfm_compress.runtime.image_spec import ReinhardStain
from medfm_compress.runtime.stain.optical_density import MIN_TISSUE, FloatArray, optical_density, tissue

_LEAST_PIXELS = 16
_LEAST_STD = 1e-4
_TO_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
_TO_LAB = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1.0, 1, 1], [1, 1, -2], [1, -1, 0]])


class Colours(NamedTuple):
    """Mean and std ``[3]`` of l, α and β."""

    mean: FloatArray
    std: FloatArray


def measure(pixels: FloatArray) -> Colours | None:
    """The colours of the tissue among ``pixels`` ``[n, 3]`` in [0, 1]; None where they cannot be told."""
    seen = tissue(optical_density(pixels))
    if seen.sum() < max(_LEAST_PIXELS, MIN_TISSUE * len(pixels)):
        return None
    values = _to_lab(pixels[seen])
    colours = Colours(values.mean(axis=0), values.std(axis=0))
    return colours if colours.std.min() > _LEAST_STD else None


def normalise(pixels: FloatArray, rule: ReinhardStain) -> FloatArray | None:
    """``pixels`` ``[n, 3]`` in [0, 1] in the reference's colours, likewise; None where their own cannot be told."""
    own = measure(pixels)
    if own is None:
        return None
    values = (_to_lab(pixels) - own.mean) * (np.asarray(rule.std) / own.std) + np.asarray(rule.mean)
    return _from_lab(values)


def _to_lab(pixels: FloatArray) -> FloatArray:
    rgb = (255.0 * np.clip(pixels, 0, 1).astype(np.float64) + 1.0) / 256.0
    return np.asarray(np.log10(rgb @ _TO_LMS.T) @ _TO_LAB.T)


def _from_lab(values: FloatArray) -> FloatArray:
    exponents = np.clip(values @ np.linalg.inv(_TO_LAB).T, -10, 10)
    rgb = 10.0**exponents @ np.linalg.inv(_TO_LMS).T
    return np.clip((256.0 * rgb - 1.0) / 255.0, 0.0, 1.0)
