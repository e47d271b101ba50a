"""The four load scenarios without LoadGen, for devices on which it is not installed: numpy and a clock.

One thread issues and answers, so a query that arrives while another runs waits its turn, first come, first served.
Arrivals of ``server`` are fixed beforehand: gaps are drawn from an exponential distribution with mean 1/qps and a fixed
seed. Latency counts from the scheduled arrival, not from when the engine got round to it; to count from there would
leave out the queue (the "coordinated omission" of Tene, How NOT to Measure Latency, 2013).
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.measure.load_scenario import Load, LoadOutcome
from medfm_compress.bench.measure.load_system_under_test import Library

_DRAWN = 4096


def drive_plain(library: Library, load: Load) -> LoadOutcome:
    """Run one scenario on ``library``; latencies are those of `LoadOutcome`."""
    samples = _draw(library, load.plan.seed)
    if load.scenario == "offline":
        latencies, duration_s = _offline(library, load, samples)
    elif load.scenario == "server":
        latencies, duration_s = _server(library, arrivals_s(load), samples)
    else:
        latencies, duration_s = _streams(library, load, samples)
    return LoadOutcome(
        latencies_ms=tuple(round(1000 * latency, 5) for latency in latencies),
        duration_s=duration_s,
        samples_per_query=load.samples_per_query,
    )


def arrivals_s(load: Load) -> NDArray[np.float64]:
    """Scheduled arrivals in s from the start, ascending: a Poisson process over ``duration_s`` or until enough."""
    random, plan = np.random.default_rng(load.plan.seed), load.plan
    expected = plan.duration_s * load.target_qps
    count = max(plan.min_queries, int(expected + 10 * np.sqrt(expected) + 10))
    times = np.cumsum(random.exponential(1 / load.target_qps, count))
    kept = max(plan.min_queries, int(np.searchsorted(times, plan.duration_s)))
    return times[:kept]


def _streams(library: Library, load: Load, samples: Iterator[int]) -> tuple[list[float], float]:
    """One query after the other, of one sample or of several."""
    latencies: list[float] = []
    clock, plan = time.perf_counter, load.plan
    start = end = clock()
    while end - start < plan.duration_s or len(latencies) < plan.min_queries:
        query = [next(samples) for _ in range(load.samples_per_query)]
        issued = clock()
        for chunk in library.chunks(query):
            library.answer(chunk)
        end = clock()
        latencies.append(end - issued)
    return latencies, end - start


def _offline(library: Library, load: Load, samples: Iterator[int]) -> tuple[list[float], float]:
    """All samples in one query; each one's latency counts from its issue."""
    query = [next(samples) for _ in range(load.samples_per_query)]
    latencies: list[float] = []
    start = time.perf_counter()
    for chunk in library.chunks(query):
        library.answer(chunk)
        latencies += [time.perf_counter() - start] * len(chunk)
    return latencies, latencies[-1]


def _server(library: Library, arrivals: NDArray[np.float64], samples: Iterator[int]) -> tuple[list[float], float]:
    """Queries of one sample at their arrivals, or as soon after as the one before is answered."""
    latencies: list[float] = []
    clock, done = time.perf_counter, 0.0
    start = clock()
    for arrival in arrivals.tolist():
        early = arrival - (clock() - start)
        if early > 0:
            time.sleep(early)
        library.answer((next(samples),))
        done = clock() - start
        latencies.append(done - arrival)
    return latencies, done - float(arrivals[0])


def _draw(library: Library, seed: int) -> Iterator[int]:
    """Sample numbers, each drawn independently of the ones before."""
    random = np.random.default_rng(seed + 1)
    while True:
        yield from random.integers(0, library.count, _DRAWN).tolist()
