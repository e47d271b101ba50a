"""What was measured on a GPU, and of batches, as cells of a table: on the terminal and in the report."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from medfm_compress.bench.render.format import megabytes, milliseconds
from medfm_compress.bench.types.measurement import BatchTiming, Measurement

GPU_COLUMNS = ("device p50 ms", "memory", "SM clock", "power", "temperature", "throttling")
BATCH_COLUMNS = ("batch", "p50 ms", "images/s")


def gpu_cells(measurement: Measurement) -> list[str]:
    """One a column of `GPU_COLUMNS`: medians, and ranges over all readings; a dash where nothing was read."""
    states = measurement.gpu_states
    device_ms = measurement.device_ms
    return [
        milliseconds(statistics.median(device_ms)) if device_ms else "–",
        megabytes(measurement.peak_gpu_bytes),
        _range([state.sm_clock_mhz for state in states], "MHz"),
        _range([state.power_w for state in states], "W"),
        _range([state.temperature_c for state in states], "°C"),
        measurement.throttling or ("none" if states else "not known: pip install nvidia-ml-py"),
    ]


def batch_cells(timing: BatchTiming) -> list[str]:
    """One a column of `BATCH_COLUMNS`."""
    if timing.reason:
        return [str(timing.batch), "–", timing.reason]
    return [str(timing.batch), milliseconds(timing.p50_ms), f"{timing.images_per_s:,.0f}"]


def _range(readings: Sequence[float | None], unit: str) -> str:
    known = [reading for reading in readings if reading is not None]
    if not known:
        return "–"
    low, high = (f"{limit(known):,.0f}" for limit in (min, max))
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
