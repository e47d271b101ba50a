"""Memory that this process holds on NVIDIA GPUs, as the driver counts it (NVML, `nvidia-ml-py`).

Engines keep what they once allocated, so the memory in use after a turn of calls is, for inference, its peak. Where
the driver does not list this process (a container with its own process numbers) the answer is 0, which a budget reads
as not measured on a GPU and as the truth on a CPU.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

NEEDS = "pip install nvidia-ml-py"


def gpu_bytes_in_use(process: int | None = None) -> int:
    """Bytes that ``process`` (this one by default) holds on all GPUs together; 0 where the driver does not say."""
    process_id = os.getpid() if process is None else process
    with nvml() as library:
        if library is None:
            return 0
        try:
            return sum(_held(library, device, process_id) for device in devices(library))
        except library.NVMLError:
            return 0


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """The initialised NVML binding; None where there is no binding or no driver."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        yield None
        return
    try:
        library.nvmlInit()
    except library.NVMLError:
        yield None
        return
    try:
        yield library
    finally:
        library.nvmlShutdown()


def devices(library: Any) -> tuple[Any, ...]:
    """Handles of all GPUs that the driver shows."""
    return tuple(library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount()))


def devices_of_process(library: Any, process: int | None = None) -> tuple[Any, ...]:
    """Handles of the GPUs on which ``process`` (this one by default) computes; all where none lists it."""
    process_id, all_devices = os.getpid() if process is None else process, devices(library)
    return tuple(device for device in all_devices if _held(library, device, process_id)) or all_devices


def _held(library: Any, device: Any, process: int) -> int:
    """``usedGpuMemory`` is None where the driver may not tell (WDDM, some partitions)."""
    running = library.nvmlDeviceGetComputeRunningProcesses(device)
    return sum(entry.usedGpuMemory or 0 for entry in running if entry.pid == process)
