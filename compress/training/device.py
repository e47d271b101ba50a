"""Which device and precision to train with."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from medfm_compress.runtime.cpu import idle_cpus, usable_cores
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress


def best_device(requested: str) -> str:
    """Resolve ``auto``.

    Raises:
        InputError: an unknown device, or CUDA where there is none.
    """
    if requested not in {"auto", "cpu", "cuda"}:
        raise InputError(f"device is {requested!r}; it must be auto, cpu or cuda")
    if requested == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but PyTorch finds no CUDA device; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if requested == "auto" else requested


def share_processors(device: str, progress: Progress) -> None:
    """Use as many threads as there are cores that nobody else uses, at least one, and say how many.

    Threads beyond them wait for each other at the end of every operation, and an epoch takes many times as long.
    Nothing changes on a GPU, or where OMP_NUM_THREADS says how many.
    """
    if device != "cpu" or "OMP_NUM_THREADS" in os.environ:
        return
    cores, idle = usable_cores(), idle_cpus()
    threads = cores if idle is None else min(max(round(idle), 1), cores)
    torch.set_num_threads(threads)
    reason = "" if threads == cores else f"; others use the rest, {cores - (idle or 0):.1f} just now"
    progress(f"training on {threads} of {cores} cores{reason} (OMP_NUM_THREADS decides otherwise)")


def best_precision(requested: str, device: str) -> str:
    """Resolve ``auto``: bf16 where the hardware multiplies it natively, else fp32.

    Raises:
        InputError: an unknown precision.
    """
    if requested not in {"auto", "fp32", "bf16"}:
        raise InputError(f"precision is {requested!r}; it must be auto, fp32 or bf16")
    if requested != "auto":
        return requested
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    """bf16 autocast, or nothing for fp32."""
    return torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
