"""The machine and the versions, as JSON: GPU, driver, clocks, power and temperature as found (nothing is set).

    python experiments/gpu/environment.py OUT.json

Each call appends one reading, so that a run that is resumed, or asked before and after, shows how the card changed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GPU_FIELDS = (
    "name", "compute_cap", "driver_version", "memory.total", "memory.used", "clocks.sm", "clocks.max.sm", "clocks.mem",
    "power.draw", "power.limit", "temperature.gpu", "clocks_throttle_reasons.active",
)  # fmt: skip
PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


def gpus() -> list[dict[str, str]] | str:
    """One mapping a GPU with the units in nvidia-smi's own words, or why there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "nvidia-smi is not on PATH"
    command = [tool, f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if answer.returncode:
        return (answer.stdout + answer.stderr).strip()[:500]
    lines = answer.stdout.strip().splitlines()
    return [dict(zip(GPU_FIELDS, map(str.strip, line.split(",")), strict=False)) for line in lines]


def versions() -> dict[str, str]:
    """Versions of Python, the packages that matter and the CUDA that PyTorch was built for."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {**found, **_torch_cuda()}


def _torch_cuda() -> dict[str, str]:
    import torch

    available = torch.cuda.is_available()
    cudnn = torch.backends.cudnn.version() if available else None  # type: ignore[no-untyped-call]
    return {"torch_cuda": str(torch.version.cuda), "cuda_available": str(available), "cudnn": str(cudnn)}


def main() -> None:
    """Append a reading."""
    out = Path(sys.argv[1])
    readings: list[dict[str, Any]] = json.loads(out.read_text()) if out.exists() else []
    cpu = {"cpus": len(os.sched_getaffinity(0)), "load_average": os.getloadavg(), "kernel": platform.release()}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    readings.append({"at": now, "gpus": gpus(), "versions": versions(), **cpu})
    out.write_text(json.dumps(readings, indent=1))
    sys.stdout.write(json.dumps(readings[-1], indent=1) + "\n")


if __name__ == "__main__":
    main()
