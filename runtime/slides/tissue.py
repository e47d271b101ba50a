"""Where a slide shows tissue: glass has no saturation, stained tissue has.

    S = (max − min) / max of red, green and blue          0 where max < 26 (ink is black, not stained)
    threshold = Otsu's of the histogram of S, kept within 0.04 to 0.2
    mask = opening of {S > threshold} with a 3 × 3 square: single cells of dust go

Otsu's threshold divides the histogram wherever it lies; the bounds keep a slide of glass alone from having tissue, and
one of tissue alone from losing the paler half of it. Source: Otsu, A threshold selection method from gray-level
histograms, IEEE Transactions on Systems, Man, and Cybernetics 9 (1979) 62–66.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.slides.slide import Picture

Mask = NDArray[np.bool_]
_BOUNDS = (0.04, 0.2)
_BLACK = 26
_BINS = 256


def tissue_mask(picture: Picture, unread: Mask) -> Mask:
    """Bool ``[h, w]`` of uint8 ``[h, w, 3]``; pixels that are ``unread`` count for nothing and are no tissue."""
    values = picture.astype(np.float32)
    most = values.max(axis=2)
    saturation = np.where(most < _BLACK, 0.0, (most - values.min(axis=2)) / np.maximum(most, 1.0))
    threshold = float(np.clip(otsu_threshold(saturation[~unread]), *_BOUNDS))
    return opened((saturation > threshold) & ~unread)


def otsu_threshold(values: NDArray[np.floating]) -> float:
    """The threshold on values in [0, 1] that makes the variance between the two classes largest; 0 of no values."""
    counts, edges = np.histogram(values, _BINS, (0.0, 1.0))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(between)]) if np.isfinite(between).any() else 0.0


def opened(mask: Mask) -> Mask:
    """Erosion, then dilation, by a 3 × 3 square; outside of the picture nothing erodes and nothing grows."""
    return _extreme(_extreme(mask, grow=False), grow=True)


def grown(mask: Mask, cells: int) -> Mask:
    """``mask`` and what lies within ``cells`` of it."""
    for _ in range(cells):
        mask = _extreme(mask, grow=True)
    return mask


def _extreme(mask: Mask, *, grow: bool) -> Mask:
    padded = np.pad(mask, 1, constant_values=not grow)
    combine = np.logical_or if grow else np.logical_and
    result = mask.copy()
    height, width = mask.shape
    for y in range(3):
        for x in range(3):
            combine(result, padded[y : y + height, x : x + width], out=result)
    return result
