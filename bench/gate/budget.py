"""Hard limits on what a variant may cost: each gives one `Check`, from the measurements of one bench run.

- A latency percentile, a speed-up and a slowdown have an interval, and the limit is held against its ends: it passes
  where the whole interval keeps the limit, fails where the whole interval breaks it, and is inconclusive in between.
  More calls make the interval narrow (`latency_bounds`, `speedup`, `regression`).
- A size, a compression, a peak of memory, the time to the first prediction and the energy of a call are single figures
  and are held against the limit as they are.
- Timings that the report calls noisy prove less. Other work can only lengthen a time, so a time that keeps its limit
  keeps it, and one that breaks it is inconclusive. A ratio may be off either way. On one thread of a CPU it is held by
  processor times, which do not grow while a process waits; elsewhere by the rounds' medians. Its ends are then what the
  rounds allow at worst: the shortest of the one over the longest of the other, and the reverse. It passes where its
  interval keeps the limit as well: noise never passes what a quiet machine's figures would not.

A limit without its measurement is inconclusive, never passed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from medfm_compress.bench.measure.latency_regression import Slowdown
from medfm_compress.bench.measure.percentile_bounds import percentile_bounds, samples_for_upper_bound
from medfm_compress.bench.measure.speedup import LEAST_ROUNDS, LEVEL, has_processor_times, round_medians, speedup
from medfm_compress.bench.report import TEACHER, teacher_beside
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.policy import Budget
from medfm_compress.bench.types.target import is_cpu, on_one_chip
from medfm_compress.bench.types.verdict import Check
from medfm_compress.runtime.bundle.manifest import Outcome
from medfm_compress.runtime.errors import InputError

_MB = 1e6
_MORE_ROUNDS = "bench with more --rounds on a quiet machine"
_QUIET = "bench on a quiet machine"


class Figure(NamedTuple):
    """What is held against a limit: a figure with the ends of its interval, or ``missing`` says why there is none.

    A single figure has itself for both ends. ``remedy`` says how to make the interval narrower. ``at_worst`` are the
    ends on a noisy machine, for a ratio; ``worst_by`` says of what, where the interval is of something else.
    """

    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    missing: str = ""
    remedy: str = ""
    at_worst: tuple[float, float] | None = None
    worst_by: str = ""

    @classmethod
    def single(cls, value: float, missing: str = "") -> Figure:
        """A figure without an interval."""
        return cls(value, value, value, missing)


class Limit(NamedTuple):
    """One limit: its name, its unit, how much, whether that is the least and not the most, and whether of a time."""

    name: str
    unit: str
    value: float
    at_least: bool = False
    timed: bool = False


def check_budget(
    budget: Budget,
    variant: str,
    measurements: Sequence[Measurement],
    slowdowns: Sequence[Slowdown] = (),
    noise: Sequence[str] = (),
) -> tuple[Check, ...]:
    """Checks of every limit that ``budget`` sets, for the measurement and the slowdown called ``variant``.

    The teacher, for the two ratios, is the measurement called ``teacher``; for the speed of a variant on a GPU it is
    the teacher's own row there. ``noise`` are reasons to distrust timings.
    """
    pairs = budget_figures(budget, variant, measurements, slowdowns)
    return tuple(_check(limit, figure, variant, noise) for limit, figure in pairs)


def budget_figures(
    budget: Budget, name: str, measurements: Sequence[Measurement], slowdowns: Sequence[Slowdown] = ()
) -> list[tuple[Limit, Figure]]:
    """Every limit that ``budget`` sets, with what was found of the measurement called ``name``."""
    own = next((measurement for measurement in measurements if measurement.name == name), None)
    teacher = next((measurement for measurement in measurements if measurement.name == TEACHER), None)
    slowdown = next((entry for entry in slowdowns if entry.variant == name), None)
    beside = (teacher_beside(measurements, own) if own else None) or teacher
    pairs = [*_latencies(budget, own), *_costs(budget, own), *_ratios(budget, own, teacher, beside)]
    if budget.max_slowdown is not None:
        pairs.append((Limit("slowdown", "×", budget.max_slowdown, timed=True), _slowdown(slowdown)))
    return pairs


def _latencies(budget: Budget, own: Measurement | None) -> list[tuple[Limit, Figure]]:
    session, whole = (own.session_ms, own.end_to_end_ms) if own else ((), ())
    calls = own.calls_per_round if own else 0
    rounds = len(session) // calls if calls else 0
    passes = len(whole) // rounds if rounds else 0
    return [
        (Limit(name, " ms", limit, timed=True), _percentile(samples, quantile, per_round) if own else Figure())
        for name, limit, samples, quantile, per_round in (
            ("p50 latency", budget.p50_ms, session, 0.5, calls),
            ("p99 latency", budget.p99_ms, session, 0.99, calls),
            ("end-to-end p50", budget.end_to_end_p50_ms, whole, 0.5, passes),
            ("end-to-end p99", budget.end_to_end_p99_ms, whole, 0.99, passes),
        )
        if limit is not None
    ]


def _percentile(samples: Sequence[float], q: float, per_round: int) -> Figure:
    if not samples or not all(map(math.isfinite, samples)):
        return Figure(missing="no call was timed")
    bounds, needed = percentile_bounds(samples, q, per_round), samples_for_upper_bound(q)
    remedy = f"bench with more --rounds: {len(samples)} calls were timed"
    if len(samples) < needed:
        remedy += f", {needed} are needed for an upper bound"
    return Figure(bounds.estimate, bounds.low, bounds.high, remedy=remedy)


def _costs(budget: Budget, own: Measurement | None) -> list[tuple[Limit, Figure]]:
    pairs = []
    if budget.first_prediction_ms is not None:
        figure = Figure.single(own.first_prediction_ms) if own else Figure()
        pairs.append((Limit("first prediction", " ms", budget.first_prediction_ms, timed=True), figure))
    for name, most, size in (
        ("size", budget.size_bytes, own.size_bytes if own else 0),
        ("peak memory", budget.peak_rss_bytes, own.peak_rss_bytes if own else 0),
    ):
        if most is not None:
            pairs.append((Limit(name, " MB", most / _MB), Figure.single(size / _MB)))
    if budget.peak_gpu_bytes is not None:
        pairs.append((Limit("peak GPU memory", " MB", budget.peak_gpu_bytes / _MB), _gpu_memory(own)))
    if budget.energy_mj is not None:
        pairs.append((Limit("energy per call", " mJ", budget.energy_mj), _energy(own)))
    return pairs


def _gpu_memory(own: Measurement | None) -> Figure:
    if own is None:
        return Figure()
    if not own.peak_gpu_bytes and not is_cpu(own.target):
        return Figure(missing="the driver did not tell this process's GPU memory (pip install nvidia-ml-py)")
    return Figure.single(own.peak_gpu_bytes / _MB)


def _energy(own: Measurement | None) -> Figure:
    if own is None:
        return Figure()
    if own.energy_mj is None:
        return Figure(missing=own.energy_source or "energy was not measured")
    return Figure.single(own.energy_mj)


def _ratios(
    budget: Budget, own: Measurement | None, teacher: Measurement | None, beside: Measurement | None
) -> list[tuple[Limit, Figure]]:
    """``beside`` is the teacher on the same chip, where that was measured."""
    pairs = []
    if budget.min_speedup is not None:
        limit = Limit("speed-up at p50", "×", budget.min_speedup, at_least=True, timed=True)
        pairs.append((limit, _speedup(own, beside)))
    if budget.min_compression is not None:
        figure = Figure.single(_ratio(teacher.size_bytes, own.size_bytes)) if own and teacher else Figure()
        if teacher is None:
            figure = Figure(missing="the teacher was not measured")
        pairs.append((Limit("compression", "×", budget.min_compression, at_least=True), figure))
    return pairs


def _speedup(own: Measurement | None, teacher: Measurement | None) -> Figure:
    """Of two that were measured in the same interleaved rounds."""
    missing = _incomparable(own, teacher)
    if missing or own is None or teacher is None or not own.session_ms:
        return Figure(missing=missing)
    try:
        ratio = speedup(teacher, own)
    except InputError:
        return Figure(missing="the two were not measured in the same interleaved rounds; bench them in one run")
    if ratio.level < LEVEL:
        rounds = len(own.session_ms) // own.calls_per_round
        return Figure(missing=f"{rounds} rounds give no 95% interval of a ratio, {LEAST_ROUNDS} do; {_MORE_ROUNDS}")
    theirs, mine = (_times_when_noisy(measurement) for measurement in (teacher, own))
    at_worst = (min(theirs) / max(mine), max(theirs) / min(mine)) if min(mine) > 0 else None
    worst_by = "by processor time, " if all(map(has_processor_times, (teacher, own))) else ""
    return Figure(ratio.estimate, ratio.low, ratio.high, remedy=_MORE_ROUNDS, at_worst=at_worst, worst_by=worst_by)


def _times_when_noisy(measurement: Measurement) -> Sequence[float]:
    """One time a round, in ms: of the processor where that is the time of one thread, else the median latency."""
    if has_processor_times(measurement):
        return measurement.cpu_ms
    return [float(median) for median in round_medians(measurement)]


def _slowdown(slowdown: Slowdown | None) -> Figure:
    if slowdown is None:
        return Figure(missing="no earlier bundle was measured; give the earlier bundle with --baseline-bundle")
    ratio = slowdown.ratio
    remedy = "bench with more --pairs on a quiet machine"
    pairs = [new / old for new, old in zip(slowdown.p50_ms, slowdown.baseline_p50_ms, strict=True)]
    at_worst = (min(pairs), max(pairs)) if pairs else None
    return Figure(ratio.estimate, ratio.low, ratio.high, remedy=remedy, at_worst=at_worst)


def _incomparable(own: Measurement | None, teacher: Measurement | None) -> str:
    """Why the two latencies cannot be divided; empty where they can or ``own`` is absent."""
    if teacher is None or not teacher.session_ms:
        return "the teacher was not measured"
    if own is None or not own.session_ms:
        return ""
    if not on_one_chip(own.target, teacher.target):
        remedy = "" if is_cpu(own.target) else "; bench with --target torch:cuda beside the others"
        return f"{own.target} and the teacher's {teacher.target} differ in device{remedy}"
    if own.target.split(":")[-1] != teacher.target.split(":")[-1]:
        return f"{own.target} and the teacher's {teacher.target} differ in threads"
    return ""


def _check(limit: Limit, figure: Figure, variant: str, noise: Sequence[str]) -> Check:
    missing = figure.missing or _nonsense(limit, figure, variant)
    if missing:
        return Check(name=limit.name, outcome="inconclusive", reason=f"not known: {missing}")
    noisy = limit.timed and bool(noise)
    outcome = _noisy_outcome(limit, figure) if noisy else _outcome(limit, figure)
    bound = "at least" if limit.at_least else "at most"
    asked = "required" if limit.at_least else "allowed"
    reason = f"{_figure_text(limit, figure)}, {bound} {limit.value:.4g}{limit.unit} is {asked}"
    if noisy:
        low, high = figure.at_worst or (math.nan, math.nan)
        worst = f"; {figure.worst_by}at worst {low:.4g} to {high:.4g}" if figure.at_worst else ""
        reason += f" (noisy: {noise[0]}{worst})"
    if outcome == "inconclusive":
        reason += f": neither kept nor broken for certain; {figure.remedy or _QUIET}"
    return Check(name=limit.name, outcome=outcome, reason=reason)


def _noisy_outcome(limit: Limit, figure: Figure) -> Outcome:
    if figure.at_worst is not None:
        worst = figure._replace(low=figure.at_worst[0], high=figure.at_worst[1])
        outcome = _outcome(limit, worst)
        return "inconclusive" if outcome == "pass" and _outcome(limit, figure) != "pass" else outcome
    outcome = _outcome(limit, figure)
    # A time is only ever lengthened; a ratio without rounds may be anything.
    return "inconclusive" if outcome == "fail" or limit.at_least else outcome


def _nonsense(limit: Limit, figure: Figure, variant: str) -> str:
    """Why the figure is none; empty where it is one. 0 is one for GPU memory alone, on a CPU."""
    known = figure.estimate > 0 or (figure.estimate == 0 and limit.name == "peak GPU memory")
    sound = known and math.isfinite(figure.estimate) and not math.isnan(figure.low + figure.high)
    return "" if sound else f"{variant} was not measured"


def _outcome(limit: Limit, figure: Figure) -> Outcome:
    if limit.at_least:
        kept, broken = figure.low >= limit.value, figure.high < limit.value
    else:
        kept, broken = figure.high <= limit.value, figure.low > limit.value
    return "pass" if kept else "fail" if broken else "inconclusive"


def _figure_text(limit: Limit, figure: Figure) -> str:
    value = f"{figure.estimate:.4g}{limit.unit}"
    if figure.low == figure.high:
        return value
    if math.isinf(figure.high):
        return f"{value} (95% interval from {figure.low:.4g}, without an upper end)"
    return f"{value} (95% interval {figure.low:.4g} to {figure.high:.4g})"


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else 0.0
