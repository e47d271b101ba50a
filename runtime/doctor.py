"""What this machine can run, and why not the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from medfm_compress.runtime.cpu import memory_bytes, read_cpu, usable_cores
from medfm_compress.runtime.sessions.table import BACKENDS, is_available

# What the kernels look for, in Linux's spelling, and what is lost without it.
_X86_INSTRUCTIONS = {
    "avx2": "fp32 and int8 are slow",
    "avx512f": "fp32 runs at the speed of AVX2",
    "avx_vnni|avx512_vnni": "int8 is slower, and variants of the full 8-bit range are passed over",
    "avx512_bf16|amx_bf16": "bf16 does not run",
    "avx512_fp16|amx_fp16": "fp16 does not run",
    "amx_int8": "int8 runs at the speed of VNNI at most",
}
_ARM_INSTRUCTIONS = {
    "asimddp": "int8 is slow",
    "asimdhp": "fp16 does not run",
    "i8mm": "int8 runs at the speed of dot products at most",
    "bf16": "bf16 does not run",
}
_TOOLCHAIN = ("torch", "torchvision", "timm", "safetensors", "onnx", "onnxscript", "torch_pruning")
_PACKAGES = ("numpy", "pydicom", "Pillow", "msgspec")
# The ones with permissive licences; pydicom itself would also name pylibjpeg-libjpeg, which is GPL.
_DECODERS = "pip install python-gdcm pyjpegls pylibjpeg pylibjpeg-openjpeg"
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


class Finding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that is there or not: what it is, and its version or the reason and remedy."""

    name: str
    ok: bool
    detail: str


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `examine` found, by section.

    Attributes:
        system: Python, operating system, CPU, cores, memory.
        instructions: CPU instruction sets that decide the speed of a variant.
        backends: inference engines.
        decoders: DICOM transfer syntaxes.
        toolchain: packages that only a workstation needs.
        accelerators: GPUs.
    """

    system: tuple[Finding, ...]
    instructions: tuple[Finding, ...]
    backends: tuple[Finding, ...]
    decoders: tuple[Finding, ...]
    toolchain: tuple[Finding, ...]
    accelerators: tuple[Finding, ...]


def examine() -> Diagnosis:
    """Look at everything; imports the engines and pydicom, never the toolchain."""
    return Diagnosis(
        system=tuple(_system()),
        instructions=tuple(_instructions()),
        backends=tuple(_backends()),
        decoders=tuple(_decoders()),
        toolchain=tuple(_toolchain()),
        accelerators=(_gpu(),),
    )


def _system() -> Iterator[Finding]:
    supported = sys.version_info >= (3, 10)
    yield Finding(name="python", ok=supported, detail=platform.python_version() + ("" if supported else "; needs 3.10"))
    yield Finding(name="system", ok=True, detail=f"{platform.system()} {platform.machine()}")
    cpu = read_cpu()
    yield Finding(name="cpu", ok=bool(cpu.flags), detail=cpu.model + (f"; {cpu.reason}" if cpu.reason else ""))
    yield Finding(name="cores", ok=True, detail=f"{usable_cores()} usable by this process")
    memory = memory_bytes()
    yield Finding(name="memory", ok=memory > 0, detail=f"{memory / 2**30:.1f} GiB" if memory else "unknown")
    for package in _PACKAGES:
        yield _package(package)


def _instructions() -> Iterator[Finding]:
    flags = read_cpu().flags
    arm = platform.machine().lower() in ("aarch64", "arm64")
    for names, loss in (_ARM_INSTRUCTIONS if arm else _X86_INSTRUCTIONS).items():
        present = sorted(flags & set(names.split("|")))
        yield Finding(name=names.replace("|", " or "), ok=bool(present), detail=", ".join(present) or loss)


def _backends() -> Iterator[Finding]:
    for backend in BACKENDS:
        available = is_available(backend)
        yield Finding(name=backend, ok=available.ok, detail=available.version if available.ok else available.reason)


def _decoders() -> Iterator[Finding]:
    """One for each compressed transfer syntax that pydicom knows (PS3.5 A.4)."""
    try:
        from pydicom import uid
        from pydicom.pixels import get_decoder
    except ImportError as exc:
        yield Finding(name="pydicom", ok=False, detail=f"cannot be imported ({exc}): pip install pydicom")
        return
    for group in (
        uid.JPEGTransferSyntaxes,
        uid.JPEGLSTransferSyntaxes,
        uid.JPEG2000TransferSyntaxes,
        [uid.RLELossless],
    ):
        for syntax in group:
            try:
                decoder = get_decoder(syntax)
            except NotImplementedError:
                yield Finding(name=syntax.name, ok=False, detail="pydicom has no decoder for it")
                continue
            plugins = ", ".join(decoder.available_plugins)
            yield Finding(name=syntax.name, ok=decoder.is_available, detail=plugins or _DECODERS)


def _toolchain() -> Iterator[Finding]:
    for module in _TOOLCHAIN:
        installed = _spec_exists(module)
        detail = _version(module.replace("_", "-")) if installed else "pip install 'medfm-compress[toolchain]'"
        yield Finding(name=module, ok=installed, detail=detail)


def _gpu() -> Finding:
    """Whether NVIDIA's driver is loaded, and which GPUs it lists; what drives one stands among the backends."""
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        try:
            query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader"]
            listed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
            names = "; ".join(line.strip() for line in listed.splitlines() if line.strip())
            return Finding(name="nvidia", ok=bool(names), detail=names or "nvidia-smi lists no GPU")
        except (OSError, subprocess.SubprocessError) as exc:
            return Finding(name="nvidia", ok=False, detail=f"nvidia-smi fails ({type(exc).__name__}): check the driver")
    if _NVIDIA_DRIVER.exists():
        return Finding(name="nvidia", ok=True, detail="driver loaded; no nvidia-smi to name the GPU")
    return Finding(name="nvidia", ok=False, detail="no NVIDIA driver")


def _package(distribution: str) -> Finding:
    version = _version(distribution)
    return Finding(name=distribution.lower(), ok=bool(version), detail=version or f"pip install {distribution}")


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _spec_exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
