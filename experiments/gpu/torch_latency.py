"""PyTorch on the GPU: eager and compiled, float32, float16 and bfloat16, in turns.

    python experiments/gpu/torch_latency.py OUT.json --seconds 120 [--device cuda] [--tiny]

Device time by CUDA events, wall time with synchronisation; a round asks every form in turn, so that clocks and heat
meet all of them alike. Weights are seeded (see `graphs`): the error is against float32 on the same device.
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


def main() -> None:
    """A row for each network, batch and form, written network by network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
        forms = forms_of(name, request.device, compiled=not request.tiny)
        images = torch.from_numpy(cases(32, seed=2)).to(request.device)
        reference = forms["eager fp32"](images).float().cpu().numpy()
        for batch in (1, 32):
            for form, samples in measure(forms, images[:batch], 1 if request.tiny else ROUNDS).items():
                logits = forms[form](images).float().cpu().numpy()
                error = relative_error(logits, reference)
                row = {"network": name, "form": form, "batch": batch, "wall_ms": summary(samples)}
                rows.append({**row, "relative_logit_error": error, "finite": bool(np.isfinite(logits).all())})
                sys.stdout.write(json.dumps(rows[-1]) + "\n")
        sys.stdout.flush()
        request.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
