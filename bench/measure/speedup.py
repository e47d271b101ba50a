"""How many times faster one measurement is than another, with an interval.

    ratio = median over rounds r of  median(baseline in r) / median(candidate in r)

What slows both alike in a round (a slower clock, a busy neighbour) cancels out. In a ratio of the medians over all
rounds it does not: where a machine has two speeds and is at each about half of the time, one median falls into the fast
half and the other into the slow one (docs/results/measuring.md, "A machine with two speeds"). What slows one more than
the other stays in any ratio. The interval is that of a median by order statistics (`quantile_intervals`), of rounds
that are independent of each other; ratios of interleaved runs: Kalibera and Jones, Rigorous Benchmarking in Reasonable
Time, 2013.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.quantile_intervals import quantile_interval
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.runtime.errors import InputError

LEVEL = 0.95
LEAST_ROUNDS = 6
"""From which on the least and the largest of the ratios have their median between them with `LEVEL`."""
METHOD = "median ratio of interleaved rounds, order statistics"
PROCESSOR_METHOD = "median ratio of processor times of interleaved rounds, order statistics"


def speedup(baseline: Measurement, candidate: Measurement) -> Interval:
    """Ratio of the session latencies, above 1 where ``candidate`` is faster.

    Raises:
        InputError: the two were not measured in the same interleaved rounds.
    """
    base, other = by_round(baseline), by_round(candidate)
    if len(base) != len(other):
        raise InputError(
            f"{baseline.name} has {len(base)} rounds and {candidate.name} {len(other)}; measure them in one run"
        )
    return paired_ratio(base, other)


def cost_ratio(baseline: Measurement, candidate: Measurement) -> Interval:
    """Like `speedup`, of what is least noisy: processor time where both ran on one thread of the CPU, else latency.

    Where one thread computes, its processor time is the latency without the waiting for a processor.
    """
    if not (has_processor_times(baseline) and has_processor_times(candidate)):
        return speedup(baseline, candidate)
    if len(baseline.cpu_ms) != len(candidate.cpu_ms):
        return speedup(baseline, candidate)  # which says what is wrong
    base, other = (np.array(m.cpu_ms, dtype=np.float64).reshape(-1, 1) for m in (baseline, candidate))
    return paired_ratio(base, other, PROCESSOR_METHOD)


def paired_ratio(base: NDArray[np.float64], other: NDArray[np.float64], method: str = METHOD) -> Interval:
    """Median ratio of ``base`` to ``other``, each ``[rounds, calls]`` of the same rounds, with its interval.

    Its ``level`` is lower where there are fewer than `LEAST_ROUNDS`, all of which are between its ends then; what no
    clock can have measured, times that are 0 or not finite, gives NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log(np.median(base, axis=1) / np.median(other, axis=1))
    if not np.isfinite(ratios).all():
        return Interval(estimate=math.nan, low=math.nan, high=math.nan, level=LEVEL, method=method)
    reached = min(LEVEL, 1 - 2 * 0.5 ** len(ratios))  # of the least and the largest of so few
    ends = quantile_interval(ratios.tolist(), 0.5, LEVEL) if reached == LEVEL else None
    low, high = (ends.low, ends.high) if ends else (float(ratios.min()), float(ratios.max()))
    estimate = math.exp(float(np.median(ratios)))
    return Interval(estimate=estimate, low=math.exp(low), high=math.exp(high), level=reached, method=method)


def has_processor_times(measurement: Measurement) -> bool:
    """Whether its processor time is known of every round, and is all that a call costs: of one thread of a CPU."""
    rounds = len(measurement.session_ms) // max(measurement.calls_per_round, 1)
    _, _, where = measurement.target.partition(":")
    on_one_thread = where.startswith("cpu:") and where.endswith(":1")
    return on_one_thread and len(measurement.cpu_ms) == rounds > 0 and min(measurement.cpu_ms) > 0


def by_round(measurement: Measurement) -> NDArray[np.float64]:
    """Session samples ``[rounds, calls]`` in ms; raises InputError where there were no rounds."""
    calls, samples = measurement.calls_per_round, np.array(measurement.session_ms, dtype=np.float64)
    if calls < 1 or not samples.size or samples.size % calls:
        raise InputError(f"{measurement.name} was not measured in rounds; measure it again beside the other")
    return samples.reshape(-1, calls)


def round_medians(measurement: Measurement) -> NDArray[np.float64]:
    """Median session latency of each round, in ms ``[rounds]``; raises like `by_round`."""
    return np.asarray(np.median(by_round(measurement), axis=1))


def round_spread(measurement: Measurement) -> float:
    """Interquartile range of the rounds' medians over their median: what the machine did, not the model."""
    medians = round_medians(measurement)
    quarter, half, three_quarters = np.quantile(medians, [0.25, 0.5, 0.75])
    return float((three_quarters - quarter) / half)
