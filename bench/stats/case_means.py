"""Means over cases of values that each case has by itself, such as Dice's, resampled by patient.

    m_model = Σ_i v_i / n ,   patients drawn whole, the same ones for every model

so that the difference of two models' means is paired. A case without a value is left out before, of every model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats import bootstrap
from medfm_compress.bench.stats.score_interval import Effects
from medfm_compress.runtime.errors import InputError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def resample_mean(
    values: Floats, clusters: Integers, *, resamples: int = 2000, seed: tuple[int, ...] = (0,)
) -> bootstrap.Resampled:
    """Resample the means of per-case values of several models on the same cases, by patient.

    Args:
        values: [models, n], e.g. Dice's.
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


def mean_effects(values: Floats, clusters: Integers, lowest: float, highest: float) -> Effects:
    """What each patient does to the mean of ``values``, and what one does all whose cases have the lowest or highest.

    Args:
        values: [n], of one model, or the differences of two.
        clusters: [n], patients, numbered without gaps.
        lowest: value of a case that is lost as far as it can be.
        highest: of one that is gained as far.
    """
    mean, cases = float(values.mean()), np.bincount(clusters)
    scale = len(cases) / len(values)
    patients = np.bincount(clusters, weights=values - mean).astype(np.float64) * scale
    most = float(cases.max()) * scale
    return Effects(mean, patients, min((lowest - mean) * most, 0.0), max((highest - mean) * most, 0.0))
