"""Measuring: fresh processes, interleaved rounds, honest errors, ratios with intervals."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.measure import latency as measuring
from medfm_compress.bench.measure import requests, stopwatch, worker
from medfm_compress.bench.measure import worker_process as process
from medfm_compress.bench.measure.latency import ModelUnderTest, Plan, measure
from medfm_compress.bench.measure.machine import Machine, describe_machine
from medfm_compress.bench.measure.speedup import round_spread, speedup
from medfm_compress.bench.measure.worker_process import Worker
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.protocol import SessionRef

ORT = "medfm_compress.runtime.sessions.onnxruntime:open_session"
QUICK = Plan(rounds=10, turn_ms=5, min_calls=3, max_calls=20, warm_up_s=0.5)


def heavy_network(tiny: ModuleType, width: int = 96) -> bytes:
    """As the tiny network, with a convolution of ``width`` to ``width`` channels in between."""
    random = np.random.default_rng(0)
    constants = {
        "A": random.normal(size=(width, 1, 3, 3)).astype(np.float32),
        "B": (0.01 * random.normal(size=(width, width, 3, 3))).astype(np.float32),
        "F": random.normal(size=(width, 2)).astype(np.float32),
    }
    return tiny._serialised([("Conv", "image A", "a"), ("Conv", "a B", "r"), *tiny._HEAD], constants, 2)


@pytest.fixture
def model(tiny: ModuleType, tmp_path: Path):
    def make(name: str, model: bytes, **changes: object) -> ModelUnderTest:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model)
        made = ModelUnderTest(
            name=name,
            session=SessionRef(opener=ORT, arguments={"model": str(path), "threads": 1}),
            spec=tiny.SPEC,
            task=tiny.TASK,
            size_bytes=len(model),
        )
        return msgspec.structs.replace(made, **changes)

    return make


def measurement(name: str, rounds: list[list[float]]) -> Measurement:
    samples = tuple(value for turn in rounds for value in turn)
    return Measurement(name=name, target="torch:cpu:fp32:1", session_ms=samples, calls_per_round=len(rounds[0]))


def test_interleaved_rounds_rank_a_heavy_network_slower(
    tiny: ModuleType, model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(tiny.image()).save(tmp_path / "case.png")
    files = (str(tmp_path / "case.png"),)
    progress: list[str] = []
    turns: list[str] = []
    take_turn = measuring._Run.take_turn

    def noted(run: measuring._Run) -> None:
        turns.append(run.model.name)
        take_turn(run)

    monkeypatch.setattr(measuring._Run, "take_turn", noted)
    heavy, light = measure(
        [model("heavy", heavy_network(tiny), files=files), model("light", tiny.network(), files=files)],
        QUICK,
        progress.append,
    )
    assert progress[-1] == "rounds of timing: 10 of 10"
    rounds = [tuple(turns[i : i + 2]) for i in range(0, 20, 2)]
    assert len(turns) == 20 and set(rounds) == {("heavy", "light"), ("light", "heavy")}
    ratio = speedup(heavy, light)
    assert 1 < ratio.low <= ratio.estimate <= ratio.high
    for measurement in (heavy, light):
        assert measurement.target == "onnxruntime:cpu:fp32:1"
        assert len(measurement.session_ms) == 10 * measurement.calls_per_round
        assert len(measurement.end_to_end_ms) >= 10
        assert min(measurement.end_to_end_ms) > min(measurement.session_ms) > 0
        assert tuple(measurement.stages_ms) == ("read", "preprocess", "infer", "postprocess")
        together = np.sum([measurement.stages_ms[stage] for stage in measurement.stages_ms], axis=0)
        assert together == pytest.approx(measurement.end_to_end_ms, abs=1e-4)
        assert measurement.peak_gpu_bytes == 0
        assert measurement.energy_source
        assert measurement.first_prediction_ms > 20
        assert measurement.peak_rss_bytes > 20e6
        assert measurement.warm_up_calls >= 16
    assert heavy.size_bytes > light.size_bytes


@pytest.mark.parametrize("seed", range(10))
def test_a_machine_with_two_speeds_does_not_touch_the_ratio(seed: int) -> None:
    """Each lasts some rounds, half of all together, and may begin within one: medians over rounds fall into either."""
    random = np.random.default_rng(seed)
    slowness = np.repeat(random.permutation([1.0, 2.0] * 4), 6)
    base, other = (
        measurement(name, [[ms * slow * random.normal(1, 0.01) for _ in range(3)] for slow in slownesses])
        for name, ms, slownesses in (("base", 10.0, slowness[:-1]), ("other", 8.0, slowness[1:]))
    )
    ratio = speedup(base, other)
    assert ratio.low <= 1.26 and ratio.high >= 1.24 and ratio.high / ratio.low < 1.03
    assert ratio.estimate == pytest.approx(1.25, rel=0.01)


def test_measuring_costs_less_than_one_percent_of_a_short_inference() -> None:
    """Of one of 5 ms: the median of many empty calls, so that a busy machine does not matter."""
    assert np.median(stopwatch.timed_ms(lambda: None, 5000)) < 0.01 * 5.0


def test_collector_rests_while_calls_are_timed() -> None:
    states: list[bool] = []
    stopwatch.timed_ms(lambda: states.append(gc.isenabled()), 3)
    assert states == [False] * 3
    assert gc.isenabled()


def test_unsettled_warm_up_is_said(model, tiny: ModuleType) -> None:
    hasty = msgspec.structs.replace(QUICK, rounds=1, warm_up_s=1e-9)
    assert not measure([model("light", tiny.network())], hasty)[0].warm_up_stable


def test_torch_stays_out_of_the_workers(tiny: ModuleType, model) -> None:
    """A bare ONNX Runtime process is far below PyTorch's footprint."""
    measurements = measure([model("light", tiny.network())], msgspec.structs.replace(QUICK, rounds=1))
    assert measurements[0].peak_rss_bytes < 150e6


def test_contender_that_cannot_open_is_named(model, tiny: ModuleType) -> None:
    broken = model("broken", b"this is no network")
    with pytest.raises(InputError, match="broken cannot run: onnxruntime cannot load"):
        measure([model("light", tiny.network()), broken], QUICK)


def test_contender_on_other_threads_is_refused(model, tiny: ModuleType) -> None:
    with pytest.raises(InputError, match="runs on 1 threads and the plan says 2"):
        measure([model("light", tiny.network())], msgspec.structs.replace(QUICK, threads=2))


def test_opener_outside_the_package_is_refused(tiny: ModuleType) -> None:
    evil = ModelUnderTest(name="evil", session=SessionRef(opener="os:system"), spec=tiny.SPEC, task=tiny.TASK)
    with pytest.raises(InputError, match="not inside medfm_compress"):
        measure([evil], QUICK)


def test_process_that_dies_is_named_with_its_last_words() -> None:
    with Worker("doomed", 1, 30) as doomed:
        doomed._process.kill()
        with pytest.raises(InputError, match=r"process of doomed was ended by signal 9"):
            doomed.ask(requests.WarmUp())


def test_last_line_of_standard_error_is_passed_on() -> None:
    with Worker("talker", 1, 30) as talker:
        talker._stdin().write(b"not json\n")
        talker._stdin().flush()
        with pytest.raises(InputError, match="talker"):
            talker.ask(requests.WarmUp())


def test_silent_process_times_out(model, tiny: ModuleType) -> None:
    light = model("light", tiny.network())
    with Worker("light", 1, 0.001) as slow, pytest.raises(InputError, match=r"light did not answer within 0\.001 s"):
        slow.ask(requests.Open(session=light.session, spec=light.spec, task=light.task))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_waiting_worker_is_stopped_and_pinned(model, tiny: ModuleType) -> None:
    light = model("light", tiny.network())
    allowed = os.sched_getaffinity(0)
    with Worker("light", 1, 30) as waiting:
        waiting.ask(requests.Open(session=light.session, spec=light.spec, task=light.task))
        pid = waiting._process.pid
        assert os.sched_getaffinity(pid) == {min(allowed)}
        state = ""
        while state != "T":
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            assert state in "RST"
        assert waiting.ask(requests.Time(calls=2)).session_ms
    assert os.sched_getaffinity(0) == allowed
    assert waiting._process.returncode is not None


def test_replies_are_not_disturbed_by_what_a_library_prints(capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    saved = os.dup(1)
    os.dup2(writing, 1)
    try:
        replies = worker._private_stdout()
        os.write(1, b"chatter of a library\n")
        replies.write(b"reply\n")
        replies.close()
    finally:
        os.dup2(saved, 1)
        os.close(writing)
        os.close(saved)
    assert os.read(reading, 100) == b"reply\n"
    os.close(reading)
    assert "chatter" in capfd.readouterr().err


def test_worker_answers_a_wrong_request_and_ends() -> None:
    replies = io.BytesIO()
    worker.serve(iter([b'{"type":"dance"}\n', b'{"type":"warm_up"}\n']), replies)
    lines = replies.getvalue().splitlines()
    assert len(lines) == 1
    assert b"error" in lines[0]


def test_request_before_a_session_is_an_error() -> None:
    replies = io.BytesIO()
    worker.serve(iter([msgspec.json.encode(requests.Time(calls=1))]), replies)
    assert b"no session is open" in replies.getvalue()


def test_warm_is_two_equal_windows() -> None:
    assert not stopwatch.is_stable([1.0] * 15, 8, 0.03)
    assert stopwatch.is_stable([5.0] * 4 + [1.0] * 16, 8, 0.03)
    assert not stopwatch.is_stable([1.2] * 8 + [1.0] * 8, 8, 0.03)


@pytest.mark.parametrize(
    "change", [{"rounds": 0}, {"threads": 0}, {"turn_ms": 0.0}, {"min_calls": 9, "max_calls": 3}, {"timeout_s": -1.0}]
)
def test_senseless_plan_is_refused(change: dict[str, float]) -> None:
    with pytest.raises(InputError, match="must be"):
        Plan(**change)


def test_names_must_differ(model, tiny: ModuleType) -> None:
    same = model("light", tiny.network())
    with pytest.raises(InputError, match="name of its own"):
        measure([same, same], QUICK)


def test_speedup_cancels_what_a_round_does_to_both() -> None:
    drift = np.linspace(1, 3, 20)
    slow = measurement("slow", [[8.0 * d, 8.1 * d, 8.2 * d] for d in drift])
    fast = measurement("fast", [[2.0 * d, 2.1 * d, 2.2 * d] for d in drift])
    ratio = speedup(slow, fast)
    assert ratio.estimate == pytest.approx(8.1 / 2.1, rel=0.02)
    assert ratio.high - ratio.low < 0.15 * ratio.estimate
    assert round_spread(slow) > 0.3


def test_speedup_interval_covers_the_truth() -> None:
    """95% intervals of noisy rounds hold the true ratio in 90% or more of 100 runs."""
    random, hits = np.random.default_rng(0), 0
    for _ in range(100):
        rounds = random.normal(1, 0.05, (20, 1))
        slow = measurement("slow", (10 * rounds * random.normal(1, 0.05, (20, 9))).tolist())
        fast = measurement("fast", (4 * rounds * random.normal(1, 0.05, (20, 9))).tolist())
        ratio = speedup(slow, fast)
        hits += ratio.low <= 2.5 <= ratio.high
    assert 0.90 <= hits / 100 <= 1


def test_speedup_of_different_runs_is_refused() -> None:
    with pytest.raises(InputError, match="measure them in one run"):
        speedup(measurement("a", [[1.0]] * 10), measurement("b", [[1.0]] * 9))
    flat = msgspec.structs.replace(measurement("c", [[1.0]] * 10), calls_per_round=0)
    with pytest.raises(InputError, match="not measured in rounds"):
        speedup(measurement("a", [[1.0]] * 10), flat)


def test_machine_names_no_host_and_no_user() -> None:
    machine = describe_machine()
    text = msgspec.json.encode(machine).decode()
    for private in (os.uname().nodename, os.environ.get("USER", ""), str(Path.home())):
        if len(private) > 3:
            assert private not in text
    assert machine.allowed_cpus >= 1
    assert machine.libraries["numpy"] == np.__version__


def test_fingerprint_ignores_the_load_and_nothing_else() -> None:
    machine = describe_machine()
    assert msgspec.structs.replace(machine, load_average=9.0).fingerprint == machine.fingerprint
    assert msgspec.structs.replace(machine, cpu_model="another").fingerprint != machine.fingerprint
    assert msgspec.structs.replace(machine, load_average=9.0, allowed_cpus=2).busy
    assert not msgspec.structs.replace(machine, load_average=0.3, allowed_cpus=2).busy


def test_machine_is_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "proc/driver/nvidia/gpus/0000").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("model name\t: Some CPU\nflags\t\t: sse avx2 avx512_vnni\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16000000 kB\n")
    (tmp_path / "proc/driver/nvidia/gpus/0000/information").write_text("Model: \t NVIDIA T4\n")
    machine = describe_machine(tmp_path)
    assert (machine.cpu_model, machine.cpu_flags) == ("Some CPU", ("avx2", "avx512_vnni"))
    assert (machine.memory_bytes, machine.gpus) == (16_384_000_000, ("NVIDIA T4",))


def test_driver_cores_and_turbo_are_read(tmp_path: Path) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/intel_pstate").mkdir(parents=True)
    (tmp_path / "sys/devices/system/cpu/intel_pstate/no_turbo").write_text("1\n")
    (tmp_path / "proc/driver/nvidia/version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder)\n"
        "GCC version:  gcc version 12.3.0\n"
    )
    threads = ((0, 0), (0, 1), (0, 0), (0, 1), (1, 0))
    (tmp_path / "proc/cpuinfo").write_text(
        "".join(f"processor\t: 0\nphysical id\t: {socket}\ncore id\t\t: {core}\n\n" for socket, core in threads)
    )
    machine = describe_machine(tmp_path)
    assert (machine.gpu_driver, machine.physical_cores, machine.turbo) == ("580.95.05", 3, "off")


def test_machine_without_proc_is_still_described(tmp_path: Path) -> None:
    machine = describe_machine(tmp_path)
    assert isinstance(machine, Machine)
    assert machine.memory_bytes == 0


def test_thread_variables_reach_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    environment = process._environment(3)
    assert {environment[name] for name in process._THREAD_VARIABLES} == {"3"}


def test_a_worker_imports_nothing_from_the_folder_in_which_the_user_stands(
    model, tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Names that Python's own library, ours and the decoders import; each would leave a mark and end the process.
    folder = tmp_path / "stand"
    folder.mkdir()
    for name in (
        "random",
        "dl",
        "queue",
        "numpy",
        "msgspec",
        "onnxruntime",
        "openvino",
        "gdcm",
        "PIL",
        "medfm_compress",
    ):
        (folder / f"{name}.py").write_text("open('imported', 'a').write(__name__)\nraise SystemExit('hijacked')\n")
    light = model("light", tiny.network())
    monkeypatch.chdir(folder)
    with Worker("light", 1, 60) as isolated:
        reply = isolated.ask(requests.Open(session=light.session, spec=light.spec, task=light.task))
    assert reply.info is not None
    assert not (folder / "imported").exists()


@pytest.mark.parametrize("flags", [sys.flags, SimpleNamespace()], ids=["this version", "before 3.11"])
def test_modules_are_run_isolated_on_every_version(
    flags: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.setattr(process, "sys", SimpleNamespace(flags=flags))
    arguments = process.run_module("json.tool")
    done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, input=b"[1]", capture_output=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, [b"[", b"1", b"]"])


def test_processor_time_is_measured_beside_the_latency(model, tiny: ModuleType) -> None:
    (timed,) = measure([model("heavy", heavy_network(tiny, 256))], QUICK)
    assert len(timed.cpu_ms) == QUICK.rounds
    # One thread: while nothing waits the two are alike, and waiting lengthens the latency alone.
    assert 0 < np.median(timed.cpu_ms) < 1.5 * timed.quantile_ms(0.5) + 0.5
