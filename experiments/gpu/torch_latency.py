"""PyTorch on the GPU, eager and compiled, float32, float16 and bfloat16, and ONNX Runtime, in turns in one process.

    python experiments/gpu/torch_latency.py GRAPHS OUT.json --seconds 120 [--device cuda] [--tiny]

Wall time with synchronisation, images and logits on the device: no copies from or to the host. A round asks every form
in turn, so that clocks and heat meet all of them alike. TF32 is off, so fp32 is IEEE single precision. Weights are
seeded (see `graphs`): the error is against float32 on the same device. ``added_gpu_bytes`` is what PyTorch's allocator
held at most beyond all weights, so ONNX Runtime's own arena is not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphs import NETWORKS, TINY, build, cases
from onnxruntime_form import LeftOut, open_form
from trt_run import relative_error, summary

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ROUNDS, CALLS = 10, 20

Run = Callable[[torch.Tensor], torch.Tensor]


def forms_of(name: str, device: str, compiled: bool) -> dict[str, Run]:
    """Form → what runs it; the network is on the device in its own precision."""
    forms: dict[str, Run] = {}
    for precision, dtype in DTYPES.items():
        if device == "cpu" and dtype is torch.float16:
            continue  # emulated there, and of no interest
        module = build(name).to(device, dtype)
        forms[f"eager {precision}"] = _typed(module, dtype)
        if compiled and precision != "bf16":
            forms[f"compiled {precision}"] = _typed(torch.compile(module, mode="max-autotune-no-cudagraphs"), dtype)
    return forms


def _typed(module: Any, dtype: torch.dtype) -> Run:
    def run(images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            logits: torch.Tensor = module(images.to(dtype))
        return logits

    return run


def measure(forms: dict[str, Run], images: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Wall ms a call, synchronised, in interleaved rounds."""
    samples: dict[str, list[float]] = {name: [] for name in forms}
    for run in forms.values():
        for _ in range(5 if images.is_cuda else 1):
            run(images)
    for _ in range(rounds):
        for name, run in forms.items():
            for _ in range(CALLS if images.is_cuda else 1):
                _synchronise(images)
                start = time.perf_counter()
                run(images)
                _synchronise(images)
                samples[name].append(1000 * (time.perf_counter() - start))
    return samples


def _synchronise(images: torch.Tensor) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


def added_bytes(run: Run, images: torch.Tensor) -> int | None:
    """Most that PyTorch's allocator held during a call beyond what it held before, bytes; None on a CPU."""
    if not images.is_cuda:
        return None
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run(images)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def rows_of(name: str, forms: dict[str, Run], images: torch.Tensor, rounds: int) -> list[dict[str, Any]]:
    """A row for each form on ``images``; the reference is eager float32."""
    reference = forms["eager fp32"](images).float().cpu().numpy()
    rows = []
    for form, samples in measure(forms, images, rounds).items():
        logits = forms[form](images).float().cpu().numpy()
        row: dict[str, Any] = {"network": name, "form": form, "batch": len(images), "wall_ms": summary(samples)}
        # one case has no spread to divide by
        row["relative_logit_error"] = relative_error(logits, reference) if len(images) > 1 else None
        row["same_decisions"] = float(((logits > 0) == (reference > 0)).mean())
        row["added_gpu_bytes"] = added_bytes(forms[form], images)
        rows.append({**row, "finite": bool(np.isfinite(logits).all())})
    return rows


def network_rows(name: str, request: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one network."""
    rows: list[dict[str, Any]] = []
    forms = forms_of(name, request.device, compiled=not request.tiny)
    try:
        forms["onnxruntime fp32"] = open_form(request.graphs / f"{name}.fp32.onnx", request.device)
    except LeftOut as exc:
        rows.append({"network": name, "form": "onnxruntime fp32", "left_out": str(exc)})
    images = torch.from_numpy(cases(32, seed=2)).to(request.device)
    for batch in (1, 32):
        rows += rows_of(name, forms, images[:batch], 1 if request.tiny else ROUNDS)
    return rows


def main() -> None:
    """A row for each network, batch and form, written network by network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    request = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows: list[dict[str, Any]] = []
    end = time.monotonic() + request.seconds
    for name in TINY if request.tiny else NETWORKS:
        if time.monotonic() > end:
            break
        try:
            found = network_rows(name, request)
        except Exception as exc:  # noqa: BLE001 - one network's failure is a result, the others go on
            found = [{"network": name, "failure": f"{type(exc).__name__}: {exc}"[:1500]}]
        rows += found
        sys.stdout.write("".join(json.dumps(row) + "\n" for row in found))
        sys.stdout.flush()
        request.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
