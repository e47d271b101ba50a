"""Clocks, power, temperature and throttling of the GPUs on which this process computes, from NVML.

A card that throttles computes more slowly than it could: its timings say what the cooling or the power supply allows,
and not what the model takes. That it idles, or runs at clocks that somebody set, is no throttling.

Reasons: ``nvmlClocksEventReason*`` (``nvmlClocksThrottleReason*`` in older drivers), NVML API Reference, nvml.h.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from medfm_compress.bench.measure.gpu_memory import devices_of_process, nvml
from medfm_compress.bench.types.gpu_state import GpuState

THROTTLING = MappingProxyType(
    {
        0x04: "power cap",
        0x08: "hardware slowdown",
        0x20: "thermal limit",
        0x40: "hardware thermal slowdown",
        0x80: "power brake of the supply",
    }
)
"""Bit → reason, of those that slow a loaded card down."""
_REASONS = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
_SM, _MEMORY, _CHIP = 1, 2, 0  # NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU


def gpu_states() -> tuple[GpuState, ...]:
    """One reading a GPU; empty where NVML is missing. Where the driver lists no process, all GPUs are read."""
    with nvml() as library:
        if library is None:
            return ()
        try:
            return tuple(_state(library, device) for device in devices_of_process(library))
        except library.NVMLError:
            return ()


def _state(library: Any, device: Any) -> GpuState:
    power_mw = _figure(library, lambda: library.nvmlDeviceGetPowerUsage(device))
    return GpuState(
        sm_clock_mhz=_figure(library, lambda: library.nvmlDeviceGetClockInfo(device, _SM)),
        memory_clock_mhz=_figure(library, lambda: library.nvmlDeviceGetClockInfo(device, _MEMORY)),
        power_w=None if power_mw is None else power_mw / 1000,
        temperature_c=_figure(library, lambda: library.nvmlDeviceGetTemperature(device, _CHIP)),
        throttling=_throttling(library, device),
    )


def _throttling(library: Any, device: Any) -> tuple[str, ...]:
    read = next((getattr(library, name) for name in _REASONS if hasattr(library, name)), None)
    bits = _figure(library, lambda: read(device)) if read else None
    return tuple(reason for bit, reason in THROTTLING.items() if (bits or 0) & bit)


def _figure(library: Any, read: Callable[[], Any]) -> int | None:
    """None where this card, or this version of the binding, does not give it."""
    with contextlib.suppress(library.NVMLError, AttributeError):
        return int(read())
    return None
