"""Load scenarios: what is issued when, what is counted, with LoadGen and without it."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
import time
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.measure import load_driver_loadgen as loadgen
from medfm_compress.bench.measure import load_run as loading
from medfm_compress.bench.measure.latency import ModelUnderTest
from medfm_compress.bench.measure.load_driver_builtin import arrivals_s, drive_plain
from medfm_compress.bench.measure.load_run import run_scenario
from medfm_compress.bench.measure.load_scenario import (
    SCENARIOS,
    Load,
    LoadOutcome,
    LoadPlan,
    ScenarioName,
    ScenarioResult,
)
from medfm_compress.bench.measure.load_system_under_test import Library
from medfm_compress.bench.measure.percentile_bounds import finite, percentile_bounds, samples_for_upper_bound
from medfm_compress.runtime.errors import InputError, MissingDependency
from medfm_compress.runtime.sessions.protocol import SessionRef

ORT = "medfm_compress.runtime.sessions.onnxruntime:open_session"
QUICK = LoadPlan(duration_s=0.2, min_queries=20, warm_up_s=0.2, target_qps=100)
needs_loadgen = pytest.mark.skipif(
    importlib.util.find_spec("mlperf_loadgen") is None, reason="mlcommons-loadgen is not installed"
)
HARNESSES = [pytest.param("loadgen", marks=needs_loadgen), "plain"]


@pytest.fixture
def model(tiny: ModuleType, tmp_path: Path) -> ModelUnderTest:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny.network())
    reference = SessionRef(opener=ORT, arguments={"model": str(path), "threads": 1})
    return ModelUnderTest(name="int8", session=reference, spec=tiny.SPEC, task=tiny.TASK)


def request(scenario: ScenarioName, plan: LoadPlan = QUICK, harness: str = "plain", ms: float = 1.0) -> Load:
    return Load(scenario=scenario, harness=harness, plan=plan, one_by_one_ms=ms)  # type: ignore[arg-type]


def library(run=lambda values: values, batch: int = 1) -> Library:
    return Library(np.zeros((4, 1, 2, 2), np.float32), run, batch)


@pytest.mark.parametrize("harness", HARNESSES)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario(
    model: ModelUnderTest, scenario: ScenarioName, harness: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delitem(sys.modules, "mlperf_loadgen", raising=False)
    result = run_scenario(model, scenario, harness, QUICK)  # type: ignore[arg-type]
    latencies = np.array(result.latencies_ms)
    assert (result.name, result.target) == ("int8", "onnxruntime:cpu:fp32:1")
    assert (result.scenario, result.harness, result.official) == (scenario, harness, False)
    assert "unofficial" in result.note and "MLPerf asks for 600" in result.note and "made up" in result.note
    assert len(latencies) >= 20 and (latencies > 0).all()
    assert result.percentile == (0.9 if scenario == "single-stream" else 0.99)
    assert result.latency_ms.low <= result.latency_ms.estimate <= result.latency_ms.high
    assert result.latency_ms.estimate == pytest.approx(np.quantile(latencies, result.percentile))
    assert result.queries_per_second == pytest.approx(len(latencies) / result.duration_s, rel=1e-6)
    assert result.target_qps == (100 if scenario == "server" else 0)
    assert (result.samples_per_query > 1) == (scenario in ("multi-stream", "offline"))
    assert ("one sample after the other" in result.note) == (result.samples_per_query > 1)
    assert msgspec.json.decode(msgspec.json.encode(result), type=ScenarioResult) == result
    assert not list(tmp_path.glob("medfm-loadgen-*"))
    assert "mlperf_loadgen" not in sys.modules


def test_files_are_what_is_asked_about(model: ModelUnderTest, tiny: ModuleType, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(tiny.image()).save(tmp_path / "case.png")
    with_file = msgspec.structs.replace(model, files=(str(tmp_path / "case.png"),))
    assert "made up" not in run_scenario(with_file, "single-stream", "plain", QUICK).note


@needs_loadgen
@pytest.mark.parametrize("scenario", ["single-stream", "multi-stream", "server"])
def test_trace_gives_the_percentile_that_loadgen_itself_reports(scenario: ScenarioName, tmp_path: Path) -> None:
    mlperf = pytest.importorskip("mlperf_loadgen")
    load = request(scenario, harness="loadgen")
    loadgen._run(mlperf, library(lambda values: time.sleep(1e-4)), load, tmp_path)
    latencies = sorted(query.latency_ms for query in loadgen._read_trace(tmp_path / "mlperf_log_trace.json", load))
    summary = (tmp_path / "mlperf_log_summary.txt").read_text()
    reported = re.findall(r"(5|9)0\.00 percentile latency \(ns\)\s*: (\d+)", summary)
    assert len(reported) == 2
    for tenths, nanoseconds in reported:
        assert latencies[int(len(latencies) * int(tenths) / 10)] == pytest.approx(int(nanoseconds) / 1e6, abs=1e-5)


@needs_loadgen
def test_engine_that_fails_under_loadgen_is_an_error_and_not_a_crash() -> None:
    def fails(values: np.ndarray) -> np.ndarray:
        raise ValueError("out of order")

    with pytest.raises(InputError, match="failed under load: out of order"):
        loadgen.drive_loadgen(library(fails), request("single-stream", harness="loadgen"))


def test_missing_loadgen_names_the_pip_command(model: ModelUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install mlcommons-loadgen"):
        run_scenario(model, "server", "loadgen", QUICK)


def test_unknown_scenario_is_refused(model: ModelUnderTest) -> None:
    with pytest.raises(InputError, match="choose one of single-stream, multi-stream, offline, server"):
        run_scenario(model, "burst", "plain", QUICK)  # type: ignore[arg-type]


def test_arrivals_are_a_poisson_process_with_a_fixed_seed() -> None:
    stats = pytest.importorskip("scipy.stats")
    plan = LoadPlan(duration_s=100, target_qps=50, seed=3)
    times = arrivals_s(request("server", plan))
    assert (np.diff(times) > 0).all() and times[-1] <= 100
    assert len(times) == pytest.approx(5000, abs=4 * math.sqrt(5000))
    assert stats.kstest(np.diff(times), stats.expon(scale=1 / 50).cdf).pvalue > 0.01
    assert (times == arrivals_s(request("server", plan))).all()
    assert len(arrivals_s(request("server", LoadPlan(duration_s=0.01, target_qps=1, min_queries=30)))) == 30


def test_waiting_in_the_queue_is_part_of_the_latency() -> None:
    """One answer stalls; whoever arrived meanwhile waited, although each answer itself is quick."""
    answered: list[int] = []

    def stalls_once(values: np.ndarray) -> np.ndarray:
        answered.append(1)
        time.sleep(0.1 if len(answered) == 1 else 0.0)
        return values

    load = request("server", LoadPlan(duration_s=0.01, target_qps=1000, min_queries=20))
    outcome = drive_plain(library(stalls_once), load)
    arrivals = arrivals_s(load)
    waited = 100 - 1000 * (arrivals - arrivals[0])
    assert (np.array(outcome.latencies_ms) >= waited - 1e-3).all()


def test_a_query_of_several_samples_takes_as_long_as_all_of_them() -> None:
    calls: list[int] = []
    plan = LoadPlan(duration_s=1e-3, min_queries=5, samples_per_query=3)
    outcome = drive_plain(library(lambda values: calls.append(len(values))), request("multi-stream", plan))
    assert len(calls) == 3 * len(outcome.latencies_ms)
    assert set(calls) == {1}


def test_engines_that_take_batches_get_them() -> None:
    calls: list[int] = []

    def any_batch(values: np.ndarray) -> np.ndarray:
        calls.append(len(values))
        return values

    able = library(any_batch, batch=3)
    calls.clear()
    plan = LoadPlan(duration_s=1e-9, min_queries=7)
    outcome = drive_plain(able, request("offline", plan, ms=100))
    assert (able.batch, calls, len(outcome.latencies_ms)) == (3, [3, 3, 1], 7)
    assert list(outcome.latencies_ms) == sorted(outcome.latencies_ms)

    def refuses_batches(values: np.ndarray) -> np.ndarray:
        if len(values) > 1:
            raise InputError("the batch is 1")
        return values

    assert library(refuses_batches, batch=3).batch == 1
    assert library(lambda values: values[:1], batch=3).batch == 1


@pytest.mark.parametrize(
    ("harness", "outcome", "official", "note"),
    [
        ("loadgen", LoadOutcome(latencies_ms=(1.0,) * 700, duration_s=601), True, ""),
        ("plain", LoadOutcome(latencies_ms=(1.0,) * 700, duration_s=601), False, "without LoadGen"),
        ("loadgen", LoadOutcome(latencies_ms=(1.0,) * 700, duration_s=599), False, "ran 599 s"),
        ("loadgen", LoadOutcome(latencies_ms=(1.0,) * 400, duration_s=601), False, "400 queries"),
        (
            "loadgen",
            LoadOutcome(latencies_ms=(1.0,) * 700, duration_s=601, complaint="LoadGen calls the run invalid: slow"),
            False,
            "invalid: slow",
        ),
    ],
)
def test_only_a_full_valid_loadgen_run_is_official(
    harness: str, outcome: LoadOutcome, official: bool, note: str
) -> None:
    result = loading._result("int8", "onnxruntime:cpu:int8:1", request("server", harness=harness), outcome)
    assert result.official == official
    assert note in result.note
    assert ("unofficial" in result.note) != official


@pytest.mark.parametrize(
    "change", [{"duration_s": 0.0}, {"min_queries": 0}, {"target_qps": -1.0}, {"samples_per_query": 0}, {"seed": -1}]
)
def test_senseless_plan_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must"):
        LoadPlan(**change)


def test_server_rate_is_half_of_capacity_unless_it_is_given() -> None:
    assert request("server", LoadPlan(), ms=5.0).target_qps == 100
    assert request("server", LoadPlan(target_qps=7), ms=5.0).target_qps == 7


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_percentile_bounds_are_the_binomial_ranks(q: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 1001.0))
    interval = percentile_bounds(samples.tolist(), q)
    lower, upper = int(interval.low), int(interval.high)
    below = stats.binom(1000, q).cdf
    assert below(lower - 1) <= 0.025 < below(lower)
    assert 1 - below(upper - 1) <= 0.025 < 1 - below(upper - 2)


@pytest.mark.parametrize("q", [0.5, 0.99])
def test_percentile_bounds_hold_the_truth_as_often_as_they_say(q: float) -> None:
    random, hits = np.random.default_rng(1), 0
    truth = -math.log(1 - q)
    for _ in range(1000):
        interval = percentile_bounds(random.exponential(size=400).tolist(), q)
        hits += interval.low <= truth <= interval.high
    assert 0.94 <= hits / 1000 <= 0.985


def test_too_few_samples_bound_a_tail_by_nothing_and_a_report_says_so() -> None:
    needed = samples_for_upper_bound(0.99)
    assert needed == 368
    samples = [float(value) for value in range(1, needed + 1)]
    assert percentile_bounds(samples, 0.99).high == needed
    short = percentile_bounds(samples[:-1], 0.99)
    assert short.high == math.inf
    stored = finite(short, samples[:-1], 0.99)
    assert (stored.high, stored.level < 0.95) == (needed - 1, True)
    assert percentile_bounds([5.0], 0.5).low == 0.0
