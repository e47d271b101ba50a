"""Which device and precision to train with."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from medfm_compress.runtime.errors import InputError


def best_device(wanted: str) -> str:
    """Resolve ``auto``.

    Raises:
        InputError: an unknown device, or CUDA where there is none.
    """
    if wanted not in {"auto", "cpu", "cuda"}:
        raise InputError(f"device is {wanted!r}; it must be auto, cpu or cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("device is 'cuda', but PyTorch finds no CUDA device; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def best_precision(wanted: str, device: str) -> str:
    """Resolve ``auto``: bf16 where the hardware multiplies it natively, else fp32.

    Raises:
        InputError: an unknown precision.
    """
    if wanted not in {"auto", "fp32", "bf16"}:
        raise InputError(f"precision is {wanted!r}; it must be auto, fp32 or bf16")
    if wanted != "auto":
        return wanted
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "fp32"


def autocast(device: str, precision: str) -> AbstractContextManager[object]:
    """bf16 autocast, or nothing for fp32."""
    return torch.autocast(device, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()
