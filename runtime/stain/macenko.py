"""Macenko's stain normalisation.

    V = the two largest eigenvectors of cov(OD of tissue)         φ = angle of each pixel's OD in the plane of V
    stains = the directions at the 1st and the 99th percentile of φ; the one with more red is hematoxylin
    C = least squares of OD = S C                                 S [3, 2]: hematoxylin, eosin; C [2, n] over all pixels
    C' = C · reference concentration / 99th percentile of C       OD' = S_reference C'

Source: Macenko et al., A method for normalizing histology slides for quantitative analysis, ISBI 2009. An eigenvector's
sign is arbitrary; the first is turned towards positive densities, so that no angle wraps around.

The stains of an image cannot be told where less than 5% of its pixels are tissue, where one of the two directions is
more than 30° from its reference (other dyes, ink, no stain at all), or where a stain is nowhere.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medfm_compress.runtime.image_spec import MacenkoStain
from medfm_compress.runtime.stain.optical_density import MIN_TISSUE, FloatArray, light, optical_density, tissue

PERCENTILE = 1.0
FULL = 99.0
MAX_ANGLE_DEGREES = 30.0
_LEAST_PIXELS = 16


class Stains(NamedTuple):
    """What was measured of some pixels: ``matrix`` [3, 2], hematoxylin and eosin; ``concentrations`` [2]."""

    matrix: FloatArray
    concentrations: FloatArray


def measure(density: FloatArray) -> Stains | None:
    """The stains of ``density`` ``[n, 3]``; None where they cannot be told."""
    seen = density[tissue(density)]
    if len(seen) < max(_LEAST_PIXELS, MIN_TISSUE * len(density)):
        return None
    matrix = _directions(seen)
    if matrix is None:
        return None
    full = np.percentile(_concentrations(density, matrix), FULL, axis=1)
    return Stains(matrix, full) if full.min() > 1e-3 else None


def normalise(pixels: FloatArray, rule: MacenkoStain) -> FloatArray | None:
    """``pixels`` ``[n, 3]`` in [0, 1] in the reference's stains, likewise; None where their own cannot be told."""
    density = optical_density(pixels)
    own = measure(density)
    reference = np.stack([rule.hematoxylin, rule.eosin], axis=1).astype(np.float64)
    if own is None or _angle_degrees(own.matrix, reference) > MAX_ANGLE_DEGREES:
        return None
    scale = np.asarray(rule.concentrations, np.float64) / own.concentrations
    concentrations = _concentrations(density, own.matrix) * scale[:, None]
    return light((reference @ concentrations).T)


def _directions(seen: FloatArray) -> FloatArray | None:
    """Unit optical densities ``[3, 2]`` of the two stains of tissue ``[n, 3]``."""
    _, vectors = np.linalg.eigh(np.cov(seen.T))
    plane = vectors[:, [2, 1]]
    plane[:, 0] *= np.sign(plane[:, 0].sum()) or 1.0
    angles = np.arctan2(seen @ plane[:, 1], seen @ plane[:, 0])
    low, high = np.percentile(angles, (PERCENTILE, 100.0 - PERCENTILE))
    ends: FloatArray = plane @ np.array([[np.cos(low), np.cos(high)], [np.sin(low), np.sin(high)]])
    if abs(high - low) < 1e-3 or ends.min() < -0.2:  # one colour; or no dye takes light away so
        return None
    ends = np.clip(ends, 0.0, None)
    ends /= np.linalg.norm(ends, axis=0)
    return ends if ends[0, 0] > ends[0, 1] else ends[:, ::-1]


def _concentrations(density: FloatArray, matrix: FloatArray) -> FloatArray:
    """``[2, n]``: how much of either stain explains ``density`` ``[n, 3]`` best."""
    return np.linalg.pinv(matrix) @ density.T


def _angle_degrees(own: FloatArray, reference: FloatArray) -> float:
    """The larger of the two angles between a stain and its reference; both ``[3, 2]``."""
    cosines = (own * reference).sum(axis=0) / np.linalg.norm(reference, axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())
