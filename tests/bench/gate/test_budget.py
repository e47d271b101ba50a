"""Budgets: what an interval proves, what it leaves open, and what was never measured."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.gate.budget import check_budget
from medfm_compress.bench.measure.latency_regression import Slowdown
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.policy import Budget
from medfm_compress.bench.types.verdict import Check

RANDOM = np.random.default_rng(0)
NOISY = tuple(RANDOM.normal(10, 1, 1000))
MEDIAN = float(np.median(NOISY))


def measured(name: str = "int8", **changes: object) -> Measurement:
    made = Measurement(
        name=name,
        target="openvino:cpu:int8:1",
        session_ms=NOISY,
        end_to_end_ms=tuple(5 + value for value in NOISY),
        first_prediction_ms=250.0,
        size_bytes=5_000_000,
        peak_rss_bytes=200_000_000,
    )
    return msgspec.structs.replace(made, **changes)


def only_check(budget: Budget, *measurements: Measurement, slowdowns: tuple[Slowdown, ...] = ()) -> Check:
    (check,) = check_budget(budget, "int8", measurements, slowdowns)
    return check


def slowdown(low: float, high: float, variant: str = "int8") -> Slowdown:
    ratio = Interval(estimate=(low + high) / 2, low=low, high=high)
    return Slowdown(variant=variant, baseline_digest="d" * 64, baseline_p50_ms=(1.0,), p50_ms=(1.0,), ratio=ratio)


@pytest.mark.parametrize(
    ("limit", "outcome", "about"),
    [
        ("p50_ms", "pass", 10.2),
        ("p50_ms", "inconclusive", MEDIAN),
        ("p50_ms", "fail", 9.8),
        ("p99_ms", "pass", 13.5),
        ("p99_ms", "inconclusive", 12.4),
        ("p99_ms", "fail", 11.8),
        ("end_to_end_p50_ms", "pass", 15.2),
        ("end_to_end_p50_ms", "inconclusive", 5 + MEDIAN),
        ("end_to_end_p50_ms", "fail", 14.8),
        ("end_to_end_p99_ms", "pass", 18.5),
        ("end_to_end_p99_ms", "fail", 16.8),
    ],
)
def test_a_percentile_passes_by_its_upper_and_fails_by_its_lower_bound(limit: str, outcome: str, about: float) -> None:
    check = only_check(Budget(**{limit: about}), measured())
    assert check.outcome == outcome
    assert "95% interval" in check.reason
    assert ("--rounds" in check.reason) == (outcome == "inconclusive")


def test_too_few_calls_have_no_upper_bound_for_a_tail_and_yet_can_break_a_limit() -> None:
    few = measured(session_ms=NOISY[:200])
    generous = only_check(Budget(p99_ms=99.0), few)
    assert generous.outcome == "inconclusive"
    assert "200 calls were timed, 368 are needed" in generous.reason
    assert only_check(Budget(p99_ms=5.0), few).outcome == "fail"
    assert only_check(Budget(p99_ms=99.0), measured(session_ms=NOISY[:368])).outcome == "pass"


def test_calls_of_one_round_are_not_taken_as_independent() -> None:
    """Each round had a speed of its own: a thousand calls in ten rounds say little more than ten."""
    moods = np.repeat(RANDOM.normal(10, 1, 10), 100)
    together = measured(session_ms=tuple(moods + RANDOM.normal(0, 0.01, 1000)), calls_per_round=100)
    limit = Budget(p50_ms=float(np.median(together.session_ms)) + 0.2)
    assert only_check(limit, together).outcome == "inconclusive"
    assert only_check(limit, measured(session_ms=tuple(RANDOM.permutation(together.session_ms)))).outcome == "pass"


@pytest.mark.parametrize(
    ("budget", "changes", "outcome"),
    [
        (Budget(first_prediction_ms=250), {}, "pass"),
        (Budget(first_prediction_ms=249), {}, "fail"),
        (Budget(first_prediction_ms=249), {"first_prediction_ms": 0.0}, "inconclusive"),
        (Budget(size_bytes=5_000_000), {}, "pass"),
        (Budget(size_bytes=4_999_999), {}, "fail"),
        (Budget(peak_rss_bytes=199_999_999), {}, "fail"),
        (Budget(peak_gpu_bytes=1), {}, "pass"),
        (Budget(peak_gpu_bytes=1), {"target": "torch:cuda:fp32:1"}, "inconclusive"),
        (Budget(peak_gpu_bytes=1), {"target": "torch:cuda:fp32:1", "peak_gpu_bytes": 2}, "fail"),
        (Budget(peak_gpu_bytes=2), {"target": "torch:cuda:fp32:1", "peak_gpu_bytes": 2}, "pass"),
        (Budget(energy_mj=50), {"energy_mj": 50.0, "energy_source": "rapl"}, "pass"),
        (Budget(energy_mj=50), {"energy_mj": 50.1, "energy_source": "rapl"}, "fail"),
        (Budget(energy_mj=50), {"energy_source": "no RAPL counter"}, "inconclusive"),
        (Budget(end_to_end_p50_ms=50), {"end_to_end_ms": ()}, "inconclusive"),
        (Budget(p50_ms=50), {"session_ms": (float("nan"),) * 500}, "inconclusive"),
    ],
)
def test_single_figures_and_what_is_missing(budget: Budget, changes: dict[str, object], outcome: str) -> None:
    assert only_check(budget, measured(**changes)).outcome == outcome


def test_why_a_figure_is_missing_is_passed_on() -> None:
    assert "no RAPL counter" in only_check(Budget(energy_mj=5), measured(energy_source="no RAPL counter")).reason
    gpu = only_check(Budget(peak_gpu_bytes=1), measured(target="torch:cuda:fp32:1"))
    assert "pip install nvidia-ml-py" in gpu.reason


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.9, 1.05, "pass"), (1.06, 1.2, "fail"), (1.0, 1.1, "inconclusive"), (1.05, 1.06, "inconclusive")],
)
def test_a_slowdown_is_judged_by_its_whole_interval(low: float, high: float, outcome: str) -> None:
    check = only_check(Budget(max_slowdown=1.05), measured(), slowdowns=(slowdown(3, 4, "other"), slowdown(low, high)))
    assert (check.name, check.outcome) == ("slowdown", outcome)


def test_a_missing_slowdown_says_how_to_get_one() -> None:
    check = only_check(Budget(max_slowdown=1.05), measured(), slowdowns=(slowdown(0.9, 1.0, "other"),))
    assert check.outcome == "inconclusive"
    assert "give the earlier bundle with --baseline" in check.reason


@pytest.mark.parametrize(("least", "outcome"), [(1.9, "pass"), (2.0, "inconclusive"), (2.1, "fail")])
def test_a_speedup_in_interleaved_rounds_is_judged_by_its_interval(least: float, outcome: str) -> None:
    own = measured(calls_per_round=50)
    slow = tuple(RANDOM.permutation(2 * np.array(NOISY)))
    teacher = measured("teacher", target="torch:cpu:fp32:1", session_ms=slow, calls_per_round=50)
    assert only_check(Budget(min_speedup=least), teacher, own).outcome == outcome


@pytest.mark.parametrize(("rounds", "outcome"), [(1, "inconclusive"), (5, "inconclusive"), (6, "pass")])
def test_fewer_rounds_than_an_interval_needs_prove_no_speedup(rounds: int, outcome: str) -> None:
    own, teacher = (
        measured(name, target=target, session_ms=(ms,) * 3 * rounds, calls_per_round=3)
        for name, target, ms in (("int8", "openvino:cpu:int8:1", 10.0), ("teacher", "torch:cpu:fp32:1", 40.0))
    )
    check = only_check(Budget(min_speedup=2.0), teacher, own)
    assert check.outcome == outcome
    assert (f"{rounds} rounds give no 95% interval" in check.reason) == (outcome == "inconclusive")


@pytest.mark.parametrize("calls", [0, 3])
def test_a_teacher_of_other_rounds_proves_no_speedup(calls: int) -> None:
    """In a report that was edited, or of a version that did not interleave."""
    own = measured("int8", target="openvino:cpu:int8:1", session_ms=(10.0,) * 24, calls_per_round=3)
    teacher = measured("teacher", target="torch:cpu:fp32:1", session_ms=(40.0,) * 21, calls_per_round=calls)
    check = only_check(Budget(min_speedup=2.0), teacher, own)
    assert check.outcome == "inconclusive" and "not measured in the same interleaved rounds" in check.reason


def test_every_limit_makes_one_check_of_a_name_of_its_own_whether_measured_or_not() -> None:
    names = []
    for limit in Budget.__struct_fields__:
        budget = Budget(**{limit: 1})
        unmeasured = only_check(budget)
        assert unmeasured.outcome == "inconclusive"
        assert only_check(budget, measured(), measured("teacher")).name == unmeasured.name
        names.append(unmeasured.name)
    assert len(set(names)) == len(names)
