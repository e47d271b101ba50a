"""A GPU's clocks, power and heat from a made-up driver; a card that throttles is called that."""

from __future__ import annotations

import os
import sys
from types import ModuleType, SimpleNamespace

import msgspec
import pytest

from medfm_compress.bench.build_report import noise_reasons
from medfm_compress.bench.measure.gpu_state import THROTTLING, gpu_states
from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.bench.types.gpu_state import GpuState
from medfm_compress.bench.types.measurement import Measurement

IDLE, CLOCKS_SET, THERMAL, POWER_CAP = 0x1, 0x2, 0x20, 0x4


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """NVML with two GPUs, of which this process computes on the second; ``reasons`` are bits by GPU."""
    library = ModuleType("pynvml")
    library.NVMLError = type("NVMLError", (Exception,), {})  # type: ignore[attr-defined]
    library.reasons = {0: THERMAL, 1: IDLE | CLOCKS_SET}  # type: ignore[attr-defined]
    library.running = {0: [], 1: [SimpleNamespace(pid=os.getpid(), usedGpuMemory=1)]}  # type: ignore[attr-defined]
    functions = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetComputeRunningProcesses": lambda device: library.running[device],  # type: ignore[attr-defined]
        "nvmlDeviceGetClockInfo": lambda device, kind: {1: 1980, 2: 2619}[kind],
        "nvmlDeviceGetPowerUsage": lambda device: 412_500,
        "nvmlDeviceGetTemperature": lambda device, sensor: 71,
        "nvmlDeviceGetCurrentClocksEventReasons": lambda device: library.reasons[device],  # type: ignore[attr-defined]
    }
    for name, function in functions.items():
        setattr(library, name, function)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def test_the_processs_own_gpu_is_read(driver: ModuleType) -> None:
    assert gpu_states() == (GpuState(sm_clock_mhz=1980, memory_clock_mhz=2619, power_w=412.5, temperature_c=71),)


@pytest.mark.parametrize("bit", THROTTLING)
def test_every_reason_has_its_name(driver: ModuleType, bit: int) -> None:
    driver.reasons[1] = IDLE | bit
    assert gpu_states()[0].throttling == (THROTTLING[bit],)


def test_an_older_binding_has_another_name_for_the_reasons(driver: ModuleType) -> None:
    del driver.nvmlDeviceGetCurrentClocksEventReasons
    driver.nvmlDeviceGetCurrentClocksThrottleReasons = lambda device: THERMAL | POWER_CAP
    assert gpu_states()[0].throttling == ("power cap", "thermal limit")
    del driver.nvmlDeviceGetCurrentClocksThrottleReasons
    assert gpu_states()[0].throttling == ()


def test_what_a_card_does_not_tell_is_unknown_and_the_rest_is_read(driver: ModuleType) -> None:
    def refuses(*given: object) -> None:
        raise driver.NVMLError("not supported")

    driver.nvmlDeviceGetPowerUsage = driver.nvmlDeviceGetCurrentClocksEventReasons = refuses
    (state,) = gpu_states()
    assert (state.power_w, state.throttling, state.temperature_c) == (None, (), 71)


def test_without_a_driver_nothing_is_read(driver: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise driver.NVMLError("driver not loaded")

    driver.nvmlInit = fails
    assert gpu_states() == ()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert gpu_states() == ()


def test_timings_of_a_throttling_card_are_noisy() -> None:
    cool = Measurement(name="cool", target="", session_ms=(1.0,) * 4, calls_per_round=2, gpu_states=(GpuState(),) * 6)
    states = (GpuState(), GpuState(throttling=("thermal limit",)), GpuState(throttling=("thermal limit", "power cap")))
    hot = msgspec.structs.replace(cool, name="hot", gpu_states=states)
    quiet = msgspec.structs.replace(describe_machine(), load_average=0.0)
    assert noise_reasons(quiet, [cool]) == ()
    (reason,) = noise_reasons(quiet, [cool, hot])
    assert reason == "the GPU was throttling while hot ran (thermal limit, power cap; in 2 of 3 readings)"
