"""The stopwatch in this process: calls in turns, the same warm-up for all, an end in time."""

from __future__ import annotations

import gc
from collections import Counter
from itertools import islice

import numpy as np
import pytest

from medfm_compress.bench.measure.speedup import paired_ratio
from medfm_compress.bench.measure.stopwatch import (
    WARM_UP,
    Effort,
    drawn_order,
    interleaved_ms,
    interleaved_p50_ms,
    without_collector,
)


class Clock:
    """Time that passes only where a call spends it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def spend(self, seconds: float):
        def call() -> None:
            self.seconds += seconds

        return call


def test_calls_take_turns_and_the_first_ones_do_not_count() -> None:
    order: list[str] = []
    effort = Effort(least_rounds=4, most_rounds=4)
    samples = interleaved_ms([lambda: order.append("a"), lambda: order.append("b")], effort)
    assert "".join(order[: 2 * WARM_UP]) == "ab" * WARM_UP
    rounds = ["".join(order[i : i + 2]) for i in range(2 * WARM_UP, len(order), 2)]
    assert len(rounds) == 4 and set(rounds) == {"ab", "ba"}
    assert [len(values) for values in samples] == [4, 4]


def test_every_order_of_turns_is_drawn_alike_and_the_same_in_every_process() -> None:
    orders = list(islice(drawn_order(3), 600))
    assert orders == list(islice(drawn_order(3), 600))
    counts = Counter(orders)
    assert len(counts) == 6 and all(70 < count < 130 for count in counts.values())
    for rounds in (8, 10, 12, 20, 40):  # what a search, its last run and `bench` take
        for calls in (2, 3, 5):
            firsts = [order.index(0) < order.index(1) for order in islice(drawn_order(calls), rounds)]
            assert sum(firsts) == rounds / 2


@pytest.mark.parametrize("rounds", [8, 10, 12, 20, 40])
def test_what_recurs_with_the_period_of_a_round_falls_on_no_call_alone(rounds: int) -> None:
    """Two equal calls of 3 ms on a machine that takes twice as long for 3 of every 9 ms."""
    clock = Clock()

    def call() -> None:
        clock.seconds += 0.006 if round(clock.seconds * 1e3) % 9 >= 3 else 0.003

    first, second = interleaved_ms([call, call], Effort(least_rounds=rounds, most_rounds=rounds), clock)
    assert {(a, b) for a, b in zip(np.round(first), np.round(second), strict=True)} == {(3, 6), (6, 3)}
    ratio = paired_ratio(*(np.array(values).reshape(-1, 1) for values in (first, second)))
    assert ratio.low < 0.55 and ratio.high > 1.9  # no telling which is faster
    assert ratio.estimate == pytest.approx(1.0)


def test_the_median_is_in_milliseconds() -> None:
    clock = Clock()
    durations = iter([9.0] * WARM_UP + [0.002, 0.003, 0.1])

    def call() -> None:
        clock.seconds += next(durations)

    effort = Effort(least_rounds=3, most_rounds=3, seconds=100.0)
    assert abs(interleaved_p50_ms([call], effort, clock)[0] - 3.0) < 1e-6


def test_slow_calls_are_timed_in_fewer_rounds_but_not_in_too_few() -> None:
    clock = Clock()
    samples = interleaved_ms([clock.spend(10.0)], Effort(least_rounds=2, most_rounds=40, seconds=1.0), clock)
    assert len(samples[0]) == 2
    assert clock.seconds == 30.0  # one call of the warm-up was enough


def test_timing_ends_early_only_where_calls_are_steady() -> None:
    clock = Clock()
    effort = Effort(least_rounds=5, most_rounds=1000, seconds=4.0, steady_s=0.1)
    assert len(interleaved_ms([clock.spend(0.01)], effort, clock)[0]) == 16  # two windows of eight
    growing = iter(range(1, 10_000))

    def slower() -> None:
        clock.seconds += 0.002 * next(growing)

    assert clock() and sum(interleaved_ms([slower], effort, clock)[0]) >= 4000


def test_the_collector_rests_and_wakes() -> None:
    states: list[bool] = []
    interleaved_ms([lambda: states.append(gc.isenabled())], Effort(least_rounds=2, most_rounds=2))
    assert states[WARM_UP:] == [False, False] and gc.isenabled()


def test_the_collector_leaves_old_objects_alone() -> None:
    generations: list[int] = []

    def watch(phase: str, info: dict[str, int]) -> None:
        generations.append(info["generation"])

    gc.callbacks.append(watch)
    try:
        with without_collector():
            pass
    finally:
        gc.callbacks.remove(watch)
    assert generations and max(generations) < 2
