"""Dice's overlap of two masks, case by case, and the paired comparison of two models' mean of such values.

    Dice(P, T) = 2 |P ∩ T| / (|P| + |T|) ,   1 where both are empty

Both empty counts as 1 by convention: nothing was there and nothing was drawn, which is right. An empty truth with any
pixel drawn is 0. The mean over the cases is compared by `bootstrap`, patients drawn whole.

Sources: Dice, Ecology 26 (1945) 297–302; the convention for empty masks: Maier-Hein et al., Nature Methods 21 (2024)
195–212 (Metrics reloaded), which asks that it be stated.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats import bootstrap
from medfm_compress.runtime.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def dice(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Floats:
    """Dice of each case, in [0, 1].

    Args:
        predicted: [n, ...], masks.
        truth: the same shape.

    Raises:
        InputError: the shapes differ, or the masks are not boolean.
    """
    if predicted.shape != truth.shape or predicted.ndim < 2:
        raise InputError(f"masks of shape {predicted.shape} and {truth.shape}; both must be [cases, ...] of one shape")
    if predicted.dtype != np.bool_ or truth.dtype != np.bool_:
        raise InputError(f"masks are {predicted.dtype} and {truth.dtype}; threshold them to booleans first")
    pixels = tuple(range(1, truth.ndim))
    both = (predicted & truth).sum(axis=pixels)
    either = predicted.sum(axis=pixels) + truth.sum(axis=pixels)
    return np.where(either > 0, 2 * both / np.maximum(either, 1), 1.0)


def resample_mean(
    values: Floats, clusters: Integers, *, resamples: int = 2000, seed: tuple[int, ...] = (0,)
) -> bootstrap.Resampled:
    """Resample the means of per-case values of several models on the same cases, by patient.

    Args:
        values: [models, n], e.g. `dice`.
        clusters: [n], patients, numbered 0 … clusters − 1 without gaps.
        resamples: how many.
        seed: equal seeds give equal resamples.

    Returns:
        Means ``[models]``; their difference is ``.of(lambda v: v[..., 1] - v[..., 0])``.

    Raises:
        InputError: the lengths differ, there is no case, or a value is not finite.
    """
    if values.ndim != 2 or not values.size or clusters.shape != values.shape[1:]:
        raise InputError(f"values of shape {values.shape} and {len(clusters)} patient numbers; lengths must agree")
    if not np.isfinite(values).all():
        raise InputError(f"{int((~np.isfinite(values)).sum())} values are not finite; give every case a value")
    columns = [np.bincount(clusters, weights=row) for row in (*values, np.ones(len(clusters)))]
    sums = np.stack(columns, axis=1)

    def means(weights: bootstrap.Weights) -> Floats:
        drawn = weights.astype(np.float64, copy=False) @ sums
        averages: Floats = drawn[:, :-1] / drawn[:, -1:]
        return averages

    strata = np.zeros(len(sums), dtype=np.int64)
    return bootstrap.resample(means, strata, cases=len(sums), resamples=resamples, seed=seed)
