"""Which of several candidates is preferred: noise makes candidates level, and does not put one before another."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.bench.measure.speedup import cost_ratio, speedup
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.compress.quantization.budget import Budget
from medfm_compress.compress.quantization.candidate_trial import CandidateTrial
from medfm_compress.compress.quantization.methods import Method
from medfm_compress.compress.quantization.preference import in_order, prefer
from medfm_compress.export.build import make_variant

ROUNDS, CALLS = 20, 5


def noisy(ms: float, seed: int, *, target: str = "openvino:cpu:int8:1") -> Measurement:
    """A fresh process on a busy machine: calls wait for a processor, up to four times as long as they compute."""
    random = np.random.default_rng(seed)
    cpu = ms * (1 + 0.03 * random.standard_normal(ROUNDS))
    waiting = random.choice([0.0, 1.0, 4.0], p=[0.4, 0.4, 0.2], size=(ROUNDS, CALLS))
    wall = cpu[:, None] * (1 + waiting * random.random((ROUNDS, CALLS)))
    return Measurement(
        name="played",
        target=target,
        session_ms=tuple(wall.ravel().tolist()),
        cpu_ms=tuple(cpu.tolist()),
        calls_per_round=CALLS,
    )


def timed(name: str, ms: float, seed: int, **fields: object) -> CandidateTrial:
    method = Method(placement=name)
    measurement = noisy(ms, seed)
    ratio = cost_ratio(noisy(10.0, 10_000 + seed), measurement)
    return CandidateTrial(
        name=name,
        method=method,
        variant=make_variant("openvino", "int8"),
        measurement=measurement,
        p50_ms=measurement.quantile_ms(0.5),
        speedup=ratio.estimate,
        speedup_interval=ratio,
        **fields,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("seed", range(0, 200, 10))
def test_noise_flips_no_choice(seed: int) -> None:
    trials = [
        timed("unfaithful", 4.0, seed, error=0.02),
        timed("faithful", 4.08, seed + 1, error=0.01),
        timed("slow", 5.0, seed + 2, error=0.001),
    ]
    assert prefer(trials).trial.name == "faithful"
    assert [place.trial.name for place in in_order(trials)] == ["faithful", "unfaithful", "slow"]


def test_who_was_level_is_said() -> None:
    best, level = prefer([timed("a", 4.0, 0, error=0.02), timed("b", 4.0, 1, error=0.01), timed("c", 8.0, 2)])
    assert best.name == "b" and [trial.name for trial in level] == ["a"]


def test_of_equally_fast_and_faithful_ones_the_smaller_and_then_the_earlier_is_preferred() -> None:
    trials = [
        timed("large", 4.0, 0, error=0.01, size_bytes=20),
        timed("small", 4.0, 1, error=0.010001, size_bytes=10),
        timed("later", 4.0, 2, error=0.01, size_bytes=10),
    ]
    assert prefer(trials).trial.name == "small"
    assert prefer(trials[::-1]).trial.name == "later"


def test_no_clock_decides_among_candidates_that_run_the_same_kernels() -> None:
    def of(estimator: str, speedup: float, error: float) -> CandidateTrial:
        point = Interval(estimate=speedup, low=speedup, high=speedup)
        return CandidateTrial(
            name=estimator,
            method=Method(estimator=estimator),
            variant=make_variant("openvino", "int8"),
            p50_ms=1.0,
            speedup=speedup,
            search_interval=point,
            error=error,
        )

    best, level = prefer([of("minmax", 3.0, 0.02), of("mse", 2.5, 0.01)])
    assert best.name == "mse" and level == ()


def test_waiting_for_a_processor_counts_on_one_thread_no_more() -> None:
    slow, fast = noisy(10.0, 1), noisy(5.0, 2)
    ratio = cost_ratio(slow, fast)
    assert 1.9 < ratio.low < ratio.high < 2.1 and "processor" in ratio.method
    assert speedup(slow, fast).high - speedup(slow, fast).low > 2 * (ratio.high - ratio.low)


@pytest.mark.parametrize("target", ["openvino:cpu:int8:2", "tensorrt:cuda:fp16:1"])
def test_where_more_than_one_thread_computes_the_latency_counts(target: str) -> None:
    pair = noisy(10.0, 1, target=target), noisy(5.0, 2, target=target)
    assert cost_ratio(*pair) == speedup(*pair)


class Clocks:
    """Processor time passes where work is done, the clock on the wall always."""

    work, wall = 0.0, 0.0

    def budget(self, work_s: float) -> Budget:
        return Budget(work_s, lambda: self.work, lambda: self.wall)


def test_a_budget_counts_work_and_not_waiting() -> None:
    clocks = Clocks()
    budget = clocks.budget(10.0)
    clocks.wall = 40.0
    assert budget.exhausted() == ""
    clocks.work = 10.0
    assert budget.exhausted() == "the time budget was used up"
    assert clocks.budget(0.0).exhausted()


def test_waiting_that_never_ends_is_ended() -> None:
    clocks = Clocks()
    budget = clocks.budget(10.0)
    clocks.wall, clocks.work = 50.0, 1.0
    assert "too busy" in budget.exhausted()
