"""Bias-corrected and accelerated (BCa) bootstrap over patients, stratified and paired.

Clusters (patients) are drawn with replacement within strata; each draw is a vector of integer weights that every model
and metric shares, so that differences are paired. With estimate θ̂, replicates θ*_b and b = 1…B::

    z0 = Φ⁻¹( [#(θ* < θ̂) + ½ #(θ* = θ̂)] / B )                                   (bias)
    l_sg = (G_s − 1) · (mean_g θ_(−sg) − θ_(−sg)),  g = 1…G_s groups of stratum s   (influence, by jackknife)
    a = ⅙ · Σ_s Σ_g l_sg³/G_s³ / ( Σ_s Σ_g l_sg²/G_s² )^{3/2}                      (acceleration)
    end(q) = quantile of θ* at Φ( z0 + (z0 + Φ⁻¹(q)) / (1 − a (z0 + Φ⁻¹(q))) )

A bootstrap of few clusters is too narrow: it divides by G where a variance divides by G − 1, and has normal tails where
the variance itself is estimated. So the tail Φ⁻¹(q) above is replaced by Hesterberg's expanded one, a t quantile, the
strata joined by Satterthwaite with v_s = Σ_g l_sg²/G_s²::

    Φ⁻¹(q)  →  sqrt( Σ v_s G_s/(G_s − 1) / Σ v_s ) · t_ν⁻¹(q) ,      ν from v_s and G_s − 1

Deleting a group scales the rest of its stratum up, so that the strata keep their weight as they do in the bootstrap.
Where a stratum has more than `MAX_GROUPS` clusters they are deleted in groups; the acceleration stays consistent, and
the expansion counts clusters.

Sources: Efron, JASA 82 (1987) 171–185; strata: Davison, Hinkley, Bootstrap Methods and their Application (1997),
section 5.3; clusters as the unit: Field, Welsh, JRSS B 69 (2007) 369–390; expanded tails: Hesterberg, The American
Statistician 69 (2015) 371–386.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.t_distribution import satterthwaite, t_cdf, t_quantile
from medfm_compress.bench.types.interval import Interval

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Weights = NDArray[np.int32] | Floats
Statistic = Callable[[Weights], Floats]

MAX_GROUPS = 400
CHUNK_VALUES = 1 << 18
MAX_UNDEFINED = 0.01
TAIL_REPLICATES = 10
TIE = 1e-12
METHOD = "BCa bootstrap over patients, expanded tails"
_NORMAL = NormalDist()


class Resampled(NamedTuple):
    """A statistic of any shape on the sample, on its resamples and on its jackknife.

    Attributes:
        estimate: [...].
        replicates: [resamples, ...].
        deletions: one ``[groups, ...]`` for each stratum of at least two clusters.
        clusters: of each of these strata; empty leaves the tails as they are.
    """

    estimate: Floats
    replicates: Floats
    deletions: tuple[Floats, ...]
    clusters: tuple[int, ...] = ()

    def of(self, reduce: Callable[[Floats], Floats]) -> Resampled:
        """The same resamples seen through ``reduce``, which maps ``[k, ...]`` to ``[k, ...]``."""
        deletions = tuple(reduce(values) for values in self.deletions)
        return Resampled(reduce(self.estimate[None])[0], reduce(self.replicates), deletions, self.clusters)


def resample(statistic: Statistic, strata: Integers, *, cases: int, resamples: int, seed: tuple[int, ...]) -> Resampled:
    """Compute ``statistic`` on resamples of clusters, in chunks of bounded memory.

    Args:
        statistic: maps cluster weights ``[k, clusters]`` to values ``[k, ...]``.
        strata: [clusters], stratum of each cluster.
        cases: rows that the statistic expands to, which sizes the chunks.
        resamples: how many.
        seed: equal seeds give equal resamples.
    """
    size = max(CHUNK_VALUES // max(cases, len(strata)), 1)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata)]
    estimate = statistic(np.ones((1, len(strata))))[0]
    chunks = [size] * (resamples // size) + ([resamples % size] if resamples % size else [])
    # A stream for each stratum, so that the chunks' size, and with it the memory, has no say in what is drawn.
    *streams, groups = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(len(members) + 1))
    replicates = np.concatenate([statistic(_draw(members, count, streams)) for count in chunks])
    deletions = tuple(
        np.concatenate([statistic(weights) for weights in _delete(stratum, len(strata), size, groups)])
        for stratum in members
        if len(stratum) > 1
    )
    return Resampled(estimate, replicates, deletions, tuple(len(stratum) for stratum in members if len(stratum) > 1))


def interval(resampled: Resampled, level: float) -> Interval | None:
    """Two-sided interval of a scalar statistic.

    BCa where bias and acceleration exist, else the percentile interval with the reason in ``method``. None where the
    statistic is undefined, or is so in more than `MAX_UNDEFINED` of the resamples.
    """
    replicates = _defined(resampled)
    if replicates is None:
        return None
    estimate = float(resampled.estimate)
    bias, acceleration, reason = _corrections(resampled, replicates)
    stretch, degrees = expansion(resampled)
    tails = [stretch * t_quantile((1 + sign * level) / 2, degrees) for sign in (-1, 1)]
    shares = [_NORMAL.cdf(_corrected(bias, acceleration, tail)) for tail in tails]
    low, high = (float(end) for end in np.quantile(replicates, shares))
    return Interval(
        estimate=estimate,
        low=low,
        high=high,
        level=level,
        method=METHOD if not reason else f"percentile bootstrap over patients ({reason})",
        standard_error=float(replicates.std(ddof=1)),
    )


def is_defined(resampled: Resampled) -> bool:
    """Whether the statistic is, and in all but `MAX_UNDEFINED` of the resamples."""
    return _defined(resampled) is not None


def p_below(resampled: Resampled, bound: float) -> float:
    """One-sided p-value of "the true value is at least ``bound``", small where it is clearly below.

    It inverts the upper end of `interval`. In the far tail, where fewer than `TAIL_REPLICATES` replicates lie above the
    bound and their share says little, the normal approximation takes over. 1 where the statistic is undefined.
    """
    replicates = _defined(resampled)
    if replicates is None:
        return 1.0
    estimate, error = float(resampled.estimate), float(replicates.std(ddof=1))
    if error <= TIE:
        return 0.0 if estimate < bound - TIE else 1.0
    stretch, degrees = expansion(resampled)
    share = _share_below(replicates, bound)
    if min(share, 1 - share) * len(replicates) < TAIL_REPLICATES:
        return t_cdf((estimate - bound) / (error * stretch), degrees)
    bias, acceleration, _ = _corrections(resampled, replicates)
    offset = _NORMAL.inv_cdf(share) - bias
    return t_cdf((bias - offset / (1 + acceleration * offset)) / stretch, degrees)


def _draw(members: list[Integers], count: int, streams: list[np.random.Generator]) -> Weights:
    """Multiplicities ``[count, clusters]`` of a bootstrap within strata, as integers of 32 bits."""
    weights = np.empty((count, sum(len(stratum) for stratum in members)), dtype=np.int32)
    for stratum, stream in zip(members, streams, strict=True):
        drawn = stream.integers(0, len(stratum), size=(count, len(stratum)), dtype=np.int32)
        for row, numbers in zip(weights, drawn, strict=True):
            row[stratum] = np.bincount(numbers, minlength=len(stratum))
    return weights


def _delete(stratum: Integers, clusters: int, size: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Weights with one group of ``stratum`` deleted a row, in chunks of at most ``size`` rows."""
    groups = np.array_split(rng.permutation(stratum), min(len(stratum), MAX_GROUPS))
    for start in range(0, len(groups), size):
        chunk = groups[start : start + size]
        weights = np.ones((len(chunk), clusters))
        for row, group in zip(weights, chunk, strict=True):
            row[stratum] = len(stratum) / (len(stratum) - len(group))
            row[group] = 0
        yield weights


def _defined(resampled: Resampled) -> Floats | None:
    finite = np.isfinite(resampled.replicates)
    if not np.isfinite(resampled.estimate) or 1 - finite.mean() > MAX_UNDEFINED:
        return None
    return resampled.replicates[finite]


def _share_below(replicates: Floats, value: float) -> float:
    below, tied = replicates < value - TIE, np.abs(replicates - value) <= TIE
    return float(below.mean() + tied.mean() / 2)


def _corrections(resampled: Resampled, replicates: Floats) -> tuple[float, float, str]:
    """Bias z0, acceleration a, and the reason where they do not exist and are taken as 0."""
    share = _share_below(replicates, float(resampled.estimate))
    if not 0 < share < 1:
        return 0.0, 0.0, "every resample lies on one side of the estimate"
    influences = _influences(resampled)
    squares = sum(float((values**2).sum()) for values in influences)
    if not math.isfinite(squares) or squares <= TIE**2:
        return 0.0, 0.0, "no single patient moves the estimate"
    cubes = sum(float((values**3).sum()) for values in influences)
    bias, acceleration = _NORMAL.inv_cdf(share), cubes / squares**1.5 / 6
    # Beyond this the transformation below would no longer rise with the tail, for any level in use (|z| < 4).
    if abs(acceleration) * (abs(bias) + 4) >= 1:
        return 0.0, 0.0, "acceleration too large"
    return bias, acceleration, ""


def _influences(resampled: Resampled) -> list[Floats]:
    """l_sg / G_s of the strata."""
    return [(len(d) - 1) / len(d) * (d.mean() - d) for d in resampled.deletions]


def expansion(resampled: Resampled) -> tuple[float, float]:
    """By how much the tails are stretched, and the degrees of freedom of their t quantile."""
    variances = [float((values**2).sum()) for values in _influences(resampled)]
    if not resampled.clusters or not 0 < sum(variances) < math.inf:
        return 1.0, math.inf
    unbiased = [v * count / (count - 1) for v, count in zip(variances, resampled.clusters, strict=True)]
    degrees = satterthwaite(unbiased, [count - 1 for count in resampled.clusters])
    return math.sqrt(sum(unbiased) / sum(variances)), degrees


def _corrected(bias: float, acceleration: float, tail: float) -> float:
    moved = bias + tail
    return bias + moved / (1 - acceleration * moved)
