"""The one stopwatch in this process: samples of calls in turns, for where a rough order is enough.

    A B | B A | B A | A B | …        orders are drawn, and each is followed by its reverse (`drawn_order`)

so that a machine that slows down slows all calls alike. The statistic is the median. What is opened in this process
shares its memory, its caches and its other threads: two readings minutes apart differ by up to half. What decides what
ships, or in which order, is therefore timed by `measure` in fresh processes; this one only says what is worth that.
"""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import median

import msgspec

WARM_UP = 3
_WINDOW, _TOLERANCE = 8, 0.03  # of `is_stable`


class Effort(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to time.

    Attributes:
        least_rounds: that are timed whatever they take, >= 1.
        most_rounds: after which timing ends, >= ``least_rounds``.
        seconds: of all calls together, after which timing ends once ``least_rounds`` are done.
        steady_s: after which it ends as soon as every call is stable (see `is_stable`); never sooner than that.
    """

    least_rounds: int = 8
    most_rounds: int = 40
    seconds: float = 2.5
    steady_s: float = float("inf")


DEFAULT_EFFORT = Effort()


def interleaved_ms(
    calls: Sequence[Callable[[], object]],
    effort: Effort = DEFAULT_EFFORT,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[float], ...]:
    """Samples in ms of each call, one a round; `WARM_UP` rounds go before, fewer where they take too long.

    Args:
        calls: at least one.
        effort: how long.
        clock: in seconds; `time.process_time` does not count what other programs do in between.
    """
    begin = clock()
    for number in range(WARM_UP):
        if number and clock() - begin > effort.seconds:
            break
        for call in calls:
            call()
    samples: tuple[list[float], ...] = tuple([] for _ in calls)
    begin = clock()
    with without_collector():
        for order in drawn_order(len(calls)):
            if _enough(samples, clock() - begin, effort):
                break
            for number in order:
                start = clock()
                calls[number]()
                samples[number].append((clock() - start) * 1e3)
    return samples


def drawn_order(count: int) -> Iterator[Sequence[int]]:
    """The order of turns of each round, without end: each that is drawn, then its reverse; the same in every process.

    So in every even number of rounds each call stands before each other one as often as behind it.
    In a fixed order what recurs with the period of a round (a neighbour's work, a clock that is raised and lowered)
    falls on the same one always, and looks like its own slowness: a session timed against itself took 0.49 times as
    long where it came first (docs/results/measuring.md). Randomized complete blocks: Fisher, The Design of Experiments,
    1935.
    """
    order, draw = list(range(count)), random.Random(0)  # noqa: S311 - nothing secret
    while True:
        draw.shuffle(order)
        yield tuple(order)
        yield tuple(reversed(order))


def interleaved_p50_ms(
    calls: Sequence[Callable[[], object]],
    effort: Effort = DEFAULT_EFFORT,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Median in ms of each call; see `interleaved_ms`."""
    return [median(values) for values in interleaved_ms(calls, effort, clock)]


def timed_ms(call: Callable[[], object], count: int) -> list[float]:
    """Time ``count`` calls one by one, in ms, with the garbage collector at rest."""
    samples = []
    with without_collector():
        for _ in range(count):
            start = time.perf_counter_ns()
            call()
            samples.append(round((time.perf_counter_ns() - start) / 1e6, 5))
    return samples


def is_stable(samples: Sequence[float], window: int = _WINDOW, tolerance: float = _TOLERANCE) -> bool:
    """Whether the medians of the last two windows of ``samples`` differ by at most ``tolerance``, relatively."""
    if len(samples) < 2 * window:
        return False
    before, now = median(samples[-2 * window : -window]), median(samples[-window:])
    return abs(now - before) <= tolerance * before


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Keep the garbage collector at rest; it runs once before, but not inside a block that has it at rest already.

    It then looks at young objects alone: all those of PyTorch take a fifth of a second, which each turn would pay.
    """
    enabled = gc.isenabled()
    if enabled:
        gc.collect(1)
        gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _enough(samples: Sequence[Sequence[float]], elapsed_s: float, effort: Effort) -> bool:
    rounds = len(samples[0])
    if rounds < effort.least_rounds:
        return False
    if rounds >= effort.most_rounds or elapsed_s >= effort.seconds:
        return True
    return elapsed_s >= effort.steady_s and all(is_stable(values) for values in samples)
