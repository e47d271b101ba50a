"""Is this bundle slower than the one before it? Pairs of fresh processes, judged against an effect floor.

    r_i = median(new_i) / median(old_i)                            pair i of n, each of two fresh processes
    ratio = exp(m),  interval = exp(m ± t(n − 1) · s / √n)         m, s: mean and standard deviation of log r_i

The unit is the pair, because what differs from process to process (memory layout, which pages were free, what was
cached) is not seen inside one: a thousand calls of one process are one observation of it. The two processes of a pair
take turns (old new old new; in the next pair new old new old), so that a slower clock or a busy neighbour meets both.
Source: Kalibera and Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013; Georges, Buytaert and Eeckhout,
Statistically Rigorous Java Performance Evaluation, OOPSLA 2007.

With enough pairs any difference becomes significant. What counts is the effect floor that the policy declares,
``budget.max_slowdown``: only a ratio whose whole interval lies above it is a regression (see `budget`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import msgspec

from medfm_compress.bench.measure.latency import DEFAULT_PLAN, ModelUnderTest, Plan, measure
from medfm_compress.bench.stats.t_distribution import t_quantile
from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress, counted, no_progress

LEAST_PAIRS = 10
LEVEL = 0.95
METHOD = "geometric mean over pairs of fresh processes, t interval of the log ratios"
_LEAST_ROUNDS = 2
_EARLIER = " of the earlier bundle"


class Slowdown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variant against the same variant of an earlier bundle.

    Attributes:
        variant: name of the variant.
        baseline_digest: ``model_digest`` of the earlier bundle.
        baseline_p50_ms: median of each pair's earlier process.
        p50_ms: median of each pair's later process.
        ratio: geometric mean of new / old over the pairs, above 1 where the new one is slower.
    """

    variant: str
    baseline_digest: str
    baseline_p50_ms: tuple[float, ...]
    p50_ms: tuple[float, ...]
    ratio: Interval


def measure_slowdown(
    old: ModelUnderTest,
    new: ModelUnderTest,
    plan: Plan = DEFAULT_PLAN,
    pairs: int = LEAST_PAIRS,
    progress: Progress | None = None,
    *,
    baseline_digest: str = "",
) -> Slowdown:
    """Time ``new`` against ``old`` in ``pairs`` interleaved pairs of fresh processes.

    Args:
        old: the variant of the earlier bundle; may have the same name as ``new``.
        new: the variant to judge; its name is the result's.
        plan: its rounds are divided over the pairs, at least two a pair.
        pairs: >= 10.
        progress: hears how many pairs are done.
        baseline_digest: ``model_digest`` of the earlier bundle, for the record.

    Raises:
        InputError: too few pairs, or one of the two cannot run.
    """
    if pairs < LEAST_PAIRS:
        raise InputError(
            f"{pairs} pairs of processes are too few to tell a slowdown from noise; use {LEAST_PAIRS} or more"
        )
    progress = progress or no_progress
    rounds = max(_LEAST_ROUNDS, math.ceil(plan.rounds / pairs))
    once = msgspec.structs.replace(plan, rounds=rounds)
    earlier = msgspec.structs.replace(old, name=f"{old.name}{_EARLIER}", files=())
    later = msgspec.structs.replace(new, files=())
    medians: list[tuple[float, float]] = []
    for pair in counted(range(pairs), f"{new.name} against the earlier bundle, pairs", pairs, progress):
        p50_ms = {m.name: m.quantile_ms(0.5) for m in measure(_order(earlier, later, pair), once)}
        medians.append((p50_ms[earlier.name], p50_ms[later.name]))
    before, after = (tuple(column) for column in zip(*medians, strict=True))
    ratio = geometric_mean_ratio(before, after)
    return Slowdown(
        variant=new.name, baseline_digest=baseline_digest, baseline_p50_ms=before, p50_ms=after, ratio=ratio
    )


def geometric_mean_ratio(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Geometric mean of ``after / before`` over pairs of positive values, at least two, with its 95% t interval."""
    logs = [math.log(new / old) for old, new in zip(before, after, strict=True)]
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    reach = t_quantile((1 + LEVEL) / 2, len(logs) - 1) * error
    low, high = math.exp(mean - reach), math.exp(mean + reach)
    return Interval(estimate=math.exp(mean), low=low, high=high, level=LEVEL, method=METHOD)


def _order(earlier: ModelUnderTest, later: ModelUnderTest, pair: int) -> tuple[ModelUnderTest, ModelUnderTest]:
    """Who begins alternates, so that being first favours neither."""
    return (later, earlier) if pair % 2 else (earlier, later)
