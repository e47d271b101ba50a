"""Slowdowns against an earlier bundle: pairs of processes, their order, the interval of the ratio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.measure import latency_regression as regression
from medfm_compress.bench.measure.latency import ModelUnderTest, Plan
from medfm_compress.bench.measure.latency_regression import geometric_mean_ratio, measure_slowdown
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.protocol import SessionRef

ORT = "medfm_compress.runtime.sessions.onnxruntime:open_session"
QUICK = Plan(rounds=10, turn_ms=5, min_calls=3, max_calls=20, warm_up_s=0.2)


def model(tiny: ModuleType, path: Path, model: bytes) -> ModelUnderTest:
    path.write_bytes(model)
    reference = SessionRef(opener=ORT, arguments={"model": str(path), "threads": 1})
    return ModelUnderTest(name="int8", session=reference, spec=tiny.SPEC, task=tiny.TASK)


def wide_network(tiny: ModuleType, width: int = 96) -> bytes:
    random = np.random.default_rng(0)
    constants = {
        "A": random.normal(size=(width, 1, 3, 3)).astype(np.float32),
        "B": (0.01 * random.normal(size=(width, width, 3, 3))).astype(np.float32),
        "F": random.normal(size=(width, 2)).astype(np.float32),
    }
    return tiny._serialised([("Conv", "image A", "a"), ("Conv", "a B", "r"), *tiny._HEAD], constants, 2)


def test_interval_is_the_paired_t_interval_of_the_logs() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(1)
    before, after = random.lognormal(1, 0.1, 12), random.lognormal(1.1, 0.1, 12)
    ratio = geometric_mean_ratio(before.tolist(), after.tolist())
    reference = stats.ttest_rel(np.log(after), np.log(before)).confidence_interval(0.95)
    assert ratio.estimate == pytest.approx(stats.gmean(after / before))
    assert (ratio.low, ratio.high) == pytest.approx((np.exp(reference.low), np.exp(reference.high)))


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    random, hits = np.random.default_rng(2), 0
    for _ in range(1000):
        pair, noise = random.normal(0, 0.2, 10), random.normal(0, 0.03, (2, 10))
        ratio = geometric_mean_ratio(np.exp(pair + noise[0]).tolist(), (1.05 * np.exp(pair + noise[1])).tolist())
        hits += ratio.low <= 1.05 <= ratio.high
    assert 0.93 <= hits / 1000 <= 0.97


def test_processes_are_fresh_and_take_turns_to_be_first(tiny: ModuleType, tmp_path: Path, monkeypatch) -> None:
    order: list[tuple[str, ...]] = []

    def scripted(
        pair: Sequence[ModelUnderTest], plan: Plan, progress: Progress | None = None
    ) -> tuple[Measurement, ...]:
        order.append(tuple(timed.session.arguments["model"][-8:] for timed in pair))
        assert plan.rounds == 2
        return tuple(
            Measurement(
                name=timed.name, target="x:cpu:int8:1", session_ms=(2.2 if "new" in str(timed.session) else 2.0,)
            )
            for timed in pair
        )

    monkeypatch.setattr(regression, "measure", scripted)
    old = model(tiny, tmp_path / "old.onnx", b"")
    new = model(tiny, tmp_path / "new.onnx", b"")
    lines: list[str] = []
    slowdown = measure_slowdown(old, new, QUICK, 10, lines.append, baseline_digest="d" * 64)
    assert order == [("old.onnx", "new.onnx"), ("new.onnx", "old.onnx")] * 5
    assert (slowdown.variant, slowdown.baseline_digest) == ("int8", "d" * 64)
    assert (slowdown.baseline_p50_ms, slowdown.p50_ms) == ((2.0,) * 10, (2.2,) * 10)
    assert slowdown.ratio.estimate == pytest.approx(1.1)
    assert any("against the earlier bundle, pairs" in line for line in lines)


@pytest.mark.serial
def test_a_heavier_network_is_slower_and_the_same_one_is_not(tiny: ModuleType, tmp_path: Path) -> None:
    light = model(tiny, tmp_path / "light.onnx", tiny.network())
    heavy = model(tiny, tmp_path / "heavy.onnx", wide_network(tiny))
    slowdown = measure_slowdown(light, heavy, QUICK)
    assert slowdown.ratio.low > 1.5
    assert len(slowdown.p50_ms) == len(slowdown.baseline_p50_ms) == 10
    assert measure_slowdown(light, light, QUICK).ratio.low < 1.25


def test_too_few_pairs_are_refused(tiny: ModuleType, tmp_path: Path) -> None:
    light = model(tiny, tmp_path / "light.onnx", b"")
    with pytest.raises(InputError, match="9 pairs of processes are too few"):
        measure_slowdown(light, light, QUICK, 9)


def test_slowdown_survives_json() -> None:
    ratio = geometric_mean_ratio([1.0, 2.0, 3.0], [1.1, 2.1, 3.2])
    slow = regression.Slowdown(
        variant="int8", baseline_digest="d" * 64, baseline_p50_ms=(1.0,), p50_ms=(1.1,), ratio=ratio
    )
    assert msgspec.json.decode(msgspec.json.encode(slow), type=regression.Slowdown) == slow
