"""How far two masks overlap: Dice's coefficient and Jaccard's (intersection over union).

    Dice(P, T) = 2 |P ∩ T| / (|P| + |T|)        IoU(P, T) = |P ∩ T| / |P ∪ T| = Dice / (2 − Dice)

Both empty counts as 1 by convention: nothing was there and nothing was drawn, which is right. An empty truth with any
pixel drawn is 0. (A comparison of models leaves cases out whose truth is empty: see `evaluate.mask_metrics`.)

Sources: Dice, Ecology 26 (1945) 297–302; the convention for empty masks: Maier-Hein et al., Nature Methods 21 (2024)
195–212 (Metrics reloaded), which asks that it be stated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def dice(predicted: Mask, truth: Mask) -> Floats:
    """Dice of each case, in [0, 1].

    Args:
        predicted: [n, ...], masks.
        truth: the same shape.

    Raises:
        InputError: the shapes differ, or the masks are not boolean.
    """
    both, either = _counts(predicted, truth)
    return np.where(either > 0, 2 * both / np.maximum(either, 1), 1.0)


def iou(predicted: Mask, truth: Mask) -> Floats:
    """Intersection over union of each case, in [0, 1]; arguments and errors as of `dice`."""
    both, either = _counts(predicted, truth)
    return np.where(either > 0, both / np.maximum(either - both, 1), 1.0)


def _counts(predicted: Mask, truth: Mask) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixels that both masks have, and the sum of theirs; each [n]."""
    if predicted.shape != truth.shape or predicted.ndim < 2:
        raise InputError(f"masks of shape {predicted.shape} and {truth.shape}; both must be [cases, ...] of one shape")
    if predicted.dtype != np.bool_ or truth.dtype != np.bool_:
        raise InputError(f"masks are {predicted.dtype} and {truth.dtype}; threshold them to booleans first")
    pixels = tuple(range(1, truth.ndim))
    both, first, second = (np.count_nonzero(mask, axis=pixels) for mask in (predicted & truth, predicted, truth))
    return np.asarray(both), np.asarray(first + second)
