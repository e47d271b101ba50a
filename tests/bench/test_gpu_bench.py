"""A bench of variants on a GPU, which is simulated, and on a machine without one."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import simulated_gpu

from medfm_compress.bench.gate.gate import judge
from medfm_compress.bench.gate.policy_file import LoadedPolicy
from medfm_compress.bench.measure.latency import Plan
from medfm_compress.bench.models import TeacherRef, unavailable_variants
from medfm_compress.bench.options import BenchOptions
from medfm_compress.bench.report import Report, load_report
from medfm_compress.bench.run import bench_bundle
from medfm_compress.bench.types.policy import Budget, NonInferiority, Policy
from medfm_compress.data.open import open_study
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions import cuda_driver
from medfm_compress.runtime.sessions.protocol import SessionRef

ORT = "medfm_compress.runtime.sessions.onnxruntime:open_session"
TRT = Variant(
    name="tensorrt-cuda-fp16", files=("model.onnx",), backend="tensorrt", device="cuda", precision="fp16",
    golden_tolerance=0.01,
)  # fmt: skip
QUICK = Plan(rounds=2, turn_ms=2, min_calls=4, max_calls=5, warm_up_s=0.2)
POLICY = LoadedPolicy(
    Policy(
        non_inferiority=(NonInferiority(metric="auroc", margin=0.05),),
        budget=Budget(p50_ms=10_000, min_speedup=1.5, peak_gpu_bytes=400_000_000),
        min_positives=5, min_negatives=5, min_clusters=5, resamples=1000,
    ),
    "a" * 64,
)  # fmt: skip


@pytest.fixture
def trt(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("gpu")
    return simulated_gpu.install(simulated_gpu.compile_driver(folder), folder, monkeypatch)


@pytest.fixture
def bench(tiny, tmp_path: Path):
    """Bench ``bundle`` on a small study."""
    image = pytest.importorskip("PIL.Image")
    random, rows = np.random.default_rng(0), []
    (tmp_path / "study").mkdir()
    for number in range(24):
        pixels = random.integers(0, 120, (48, 40)) + 60 * (number % 2)
        image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "study" / f"{number:02}.png")
        rows.append([f"{number:02}.png", "test", ("normal", "opacity")[number % 2], f"p{number}"])
    with (tmp_path / "study" / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "split", "label", "patient"], *rows])
    path = tmp_path / "teacher.onnx"
    path.write_bytes(tiny.network())
    session = SessionRef(opener=ORT, arguments={"model": str(path), "threads": 1})
    teacher = TeacherRef(name="net", session=session, spec=tiny.SPEC, task=tiny.TASK, size_bytes=path.stat().st_size)

    def run(bundle: Path, progress: list[str] | None = None, **options: object) -> Report:
        study, out = open_study(tmp_path / "study"), tmp_path / "out"
        lines = progress if progress is not None else []
        chosen = BenchOptions(plan=QUICK, files=0, **options)  # type: ignore[arg-type]
        bench_bundle(bundle, teacher, study, POLICY, out, chosen, lines.append)
        return load_report(out / "report.json")

    return run


def test_a_variant_on_a_gpu_is_measured_by_both_clocks(tiny, trt, bench, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("STUB_THROTTLE", str(0x20))
    report = bench(tiny.bundle(tmp_path / "a.medfm", (TRT, tiny.ORT)), batch_sweep=True)
    assert report.left_out == {} and report.variants == (TRT.name, tiny.ORT.name)
    row, cpu = report.measurement(TRT.name), report.measurement(tiny.ORT.name)
    assert (row.target, row.peak_gpu_bytes) == ("tensorrt:cuda:fp16:1", 300_000_000)
    calls = row.calls_per_round
    assert len(row.session_ms) == 2 * calls and row.device_ms == (0.25,) * 2 * calls
    assert len(row.gpu_states) == 2 * 3  # before, amid and after the calls of a turn
    assert (row.gpu_states[0].temperature_c, row.gpu_states[0].throttling) == (60, ("thermal limit",))
    assert [timing.reason for timing in row.batches] == ["", "its batch is fixed at 1"]
    assert (cpu.device_ms, cpu.gpu_states, cpu.peak_gpu_bytes) == ((), (), 0)
    assert any(f"throttling while {TRT.name} ran (thermal limit" in reason for reason in report.noise)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "On the GPU" in page and "thermal limit; in 6 of 6 readings" in page and "TensorRT · CUDA · FP16" in page
    assert {speedup.name for speedup in report.speedups} == {tiny.ORT.name}  # the teacher was on the CPU alone
    judged = next(verdict for verdict in judge(report).variants if verdict.variant == TRT.name)
    checks = {check.name: check for check in judged.checks}
    assert checks["peak GPU memory"].outcome == "pass"
    assert "noisy: " in checks["p50 latency"].reason
    assert "bench with --target torch:cuda" in checks["speed-up at p50"].reason


def test_without_the_device_its_variant_is_left_out_and_the_gate_says_so(
    tiny, trt, bench, tmp_path: Path, monkeypatch
) -> None:
    bundle = tiny.bundle(tmp_path / "a.medfm", (TRT, tiny.ORT))
    monkeypatch.setitem(cuda_driver._LIBRARIES, sys.platform, "libno_such_driver.so")
    progress: list[str] = []
    report = bench(bundle, progress)
    assert report.variants == (tiny.ORT.name,) and report.measurement(TRT.name) is None
    reason = report.left_out[TRT.name]
    assert reason.startswith("no CUDA driver is loaded") and f"left out {TRT.name}: {reason}" in progress
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"{TRT.name} was not evaluated on its device: no CUDA driver" in page and "On the GPU" not in page
    judged = next(entry for entry in judge(report).variants if entry.variant == TRT.name)
    assert judged.outcome == "inconclusive"
    assert "not evaluated on its device: no CUDA driver is loaded" in judged.checks[0].reason


def test_a_target_that_names_the_missing_device_is_refused(tiny, trt, bench, tmp_path: Path, monkeypatch) -> None:
    both, alone = (tmp_path / name for name in ("both.medfm", "alone.medfm"))
    tiny.bundle(both, (TRT, tiny.ORT))
    tiny.bundle(alone, (TRT,))
    monkeypatch.setitem(cuda_driver._LIBRARIES, sys.platform, "libno_such_driver.so")
    with pytest.raises(InputError, match="target 'tensorrt:cuda' cannot be measured here: no CUDA driver"):
        bench(both, targets=("onnxruntime:cpu", "tensorrt:cuda"))
    for targets in ((), ("tensorrt",)):
        with pytest.raises(InputError, match="no variant can be measured here: tensorrt-cuda-fp16: no CUDA driver"):
            bench(alone, targets=targets)
    assert not (tmp_path / "out").exists()
    assert unavailable_variants(Bundle.open(both), ("onnxruntime",)) == {}
