"""Intervals of a quantile, such as a p99 latency: of independent values, and of values measured in rounds.

**Order statistics.** The number of n independent values below the quantile q is binomial with n and q, whatever their
distribution. With sorted values x_(1) <= … <= x_(n)::

    low  = x_(l),  l the largest with  P(X <= l − 1) <= α/2          high = x_(u),  u the smallest with
                                                                     P(X <= u − 1) >= 1 − α/2

so the interval covers with at least 1 − α. Where no such u <= n exists, even the largest value is no upper end: p99
needs 299 values one-sided at 95%, since 0.99^299 < 5% <= 0.99^298, and 368 two-sided.

**Rounds.** Calls of one round share the machine's mood, so they are no independent values and the interval above would
be too narrow. Whole rounds are drawn with replacement instead, and the interval is the percentile interval of the
pooled quantile. Few rounds leave it approximate.

Sources: order statistics: David, Nagaraja, Order Statistics (2003), section 7.1; whole groups as the unit: Davison,
Hinkley, Bootstrap Methods and their Application (1997), section 3.8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.errors import InputError

METHOD = "order statistics"
METHOD_ROUNDS = "bootstrap over rounds"
MIN_ROUNDS = 10
CHUNK_VALUES = 1 << 20
Floats = NDArray[np.float64]


def quantile_interval(values: Sequence[float], q: float, level: float = 0.95) -> Interval | None:
    """Two-sided distribution-free interval of quantile ``q`` of independent ``values``.

    Returns:
        None where there are too few values for one of the ends at this level (see `values_needed`).

    Raises:
        InputError: no value, one that is not finite, or ``q`` or ``level`` not inside (0, 1).
    """
    x = _sorted(values, q, level)
    tail = (1 - level) / 2
    low, high = _rank_below(len(x), q, tail), _rank_above(len(x), q, tail)
    if low is None or high is None:
        return None
    estimate = float(np.quantile(x, q))
    return Interval(estimate=estimate, low=float(x[low - 1]), high=float(x[high - 1]), level=level, method=METHOD)


def quantile_upper_bound(values: Sequence[float], q: float, level: float = 0.95) -> float | None:
    """A value that quantile ``q`` is below with confidence ``level``, one-sided; None where there are too few values.

    Raises:
        InputError: as for `quantile_interval`.
    """
    x = _sorted(values, q, level)
    rank = _rank_above(len(x), q, 1 - level)
    return None if rank is None else float(x[rank - 1])


def values_needed(q: float, level: float = 0.95, *, one_sided: bool = False) -> int:
    """The fewest independent values that give quantile ``q`` an interval (or, one-sided, an upper bound).

    Raises:
        InputError: ``q`` or ``level`` is not inside (0, 1).
    """
    _check_shares(q, level)
    tail = 1 - level if one_sided else (1 - level) / 2
    needed = math.ceil(math.log(tail) / math.log(q))
    return needed if one_sided else max(needed, math.ceil(math.log(tail) / math.log1p(-q)))


def quantile_over_rounds(
    values: Sequence[float],
    calls_per_round: int,
    q: float,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Two-sided interval of quantile ``q`` of values that were measured in rounds.

    Args:
        values: consecutive ``calls_per_round`` of them belong to one round.
        calls_per_round: at least 1.
        q: in (0, 1).
        level: in (0, 1).
        resamples: of the rounds.
        seed: equal seeds give equal intervals.

    Returns:
        None with fewer than `MIN_ROUNDS` rounds, or with fewer values than even independent ones would need.

    Raises:
        InputError: as for `quantile_interval`, or the values are no whole number of rounds.
    """
    _sorted(values, q, level)
    if calls_per_round < 1 or len(values) % calls_per_round:
        raise InputError(f"{len(values)} values are no whole number of rounds of {calls_per_round} calls")
    rounds = np.array(values, dtype=np.float64).reshape(-1, calls_per_round)
    if len(rounds) < MIN_ROUNDS or len(values) < values_needed(q, level):
        return None
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(rounds), size=(resamples, len(rounds)))
    chunks = np.array_split(drawn, math.ceil(resamples * rounds.size / CHUNK_VALUES))
    resampled = np.concatenate([np.quantile(rounds[part].reshape(len(part), -1), q, axis=1) for part in chunks])
    low, high = (float(end) for end in np.quantile(resampled, ((1 - level) / 2, (1 + level) / 2)))
    return Interval(
        estimate=float(np.quantile(rounds, q)),
        low=low,
        high=high,
        level=level,
        method=METHOD_ROUNDS,
        standard_error=float(resampled.std(ddof=1)),
    )


def _check_shares(q: float, level: float) -> None:
    if not (0 < q < 1 and 0 < level < 1):
        raise InputError(f"quantile {q} at level {level} does not exist; both must be above 0 and below 1")


def _sorted(values: Sequence[float], q: float, level: float) -> Floats:
    _check_shares(q, level)
    x = np.sort(np.array(values, dtype=np.float64))
    if not len(x) or not np.isfinite(x).all():
        raise InputError(
            f"a quantile needs finite values, got {len(x)}, {int((~np.isfinite(x)).sum())} of them not finite"
        )
    return x


def _cumulative(n: int, q: float) -> Floats:
    """P(X <= k) for k = 0 … n, X binomial with ``n`` and ``q``; logarithms, so that no power underflows."""
    k = np.arange(n + 1)
    factorials = np.append(0.0, np.cumsum(np.log(np.arange(1, n + 1))))
    logs = factorials[n] - factorials - factorials[::-1] + k * math.log(q) + (n - k) * math.log1p(-q)
    cumulative: Floats = np.cumsum(np.exp(logs))
    return cumulative


def _rank_below(n: int, q: float, tail: float) -> int | None:
    """The largest rank l with P(X <= l − 1) <= ``tail``; None where even the smallest value is not low enough."""
    ranks = int((_cumulative(n, q) <= tail).sum())
    return min(ranks, n) or None


def _rank_above(n: int, q: float, tail: float) -> int | None:
    """The smallest rank u <= n with P(X >= u) <= ``tail``, by the mirrored rank; None where there is none."""
    below = _rank_below(n, 1 - q, tail)
    return None if below is None else n + 1 - below
