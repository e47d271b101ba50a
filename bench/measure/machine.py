"""`Machine`: a fingerprint of the computer that made the figures. No host name, no user, no serial number."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import msgspec

from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.strict_json import digest

FLAGS_OF_INTEREST = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "i8mm", "bf16", "sve", "hypervisor",
)  # fmt: skip
LIBRARIES = (
    "medfm-compress", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch", "timm", "nncf",
    "mlcommons-loadgen", "nvidia-ml-py", "pydicom", "pillow", "msgspec",
)  # fmt: skip
BUSY_LOAD_PER_CPU = 0.5


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What made the figures; an empty value means the system does not tell.

    Attributes:
        cpu_model: as the processor names itself.
        cpu_flags: instruction sets that matter for inference, and ``hypervisor`` on a virtual machine.
        physical_cores: of the machine; 0 where unknown.
        turbo: whether the clock may rise above its nominal value: ``on``, ``off``.
        logical_cpus: of the machine.
        allowed_cpus: that this process may use.
        governor: frequency governor of the first CPU.
        memory_bytes: of the machine.
        system: kernel name, release and architecture.
        python: version.
        libraries: name → version of what is installed.
        gpus: model names.
        gpu_driver: version of the NVIDIA driver.
        load_average: one-minute load when the measurement began; negative where unknown.
    """

    cpu_model: str
    cpu_flags: tuple[str, ...]
    logical_cpus: int
    allowed_cpus: int
    governor: str
    memory_bytes: int
    system: str
    python: str
    libraries: dict[str, str]
    gpus: tuple[str, ...] = ()
    gpu_driver: str = ""
    physical_cores: int = 0
    turbo: str = ""
    load_average: float = -1.0

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of everything but the load: timings of different fingerprints must not be compared."""
        return digest(msgspec.structs.replace(self, load_average=-1.0))

    @property
    def busy(self) -> bool:
        """Whether other work ran when the measurement began."""
        return self.load_average > BUSY_LOAD_PER_CPU * max(self.allowed_cpus, 1)


def describe_machine(root: Path = Path("/")) -> Machine:
    """Fingerprint this machine from ``/proc`` and ``/sys`` below ``root``; takes a few ms and runs no other program."""
    cpu = read_cpu(root / "proc/cpuinfo")
    return Machine(
        cpu_model=cpu.model,
        cpu_flags=tuple(flag for flag in FLAGS_OF_INTEREST if flag in cpu.flags),
        logical_cpus=os.cpu_count() or 1,
        allowed_cpus=len(allowed_cpus()),
        governor=_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip(),
        memory_bytes=1024 * int((_field(_text(root / "proc/meminfo"), "MemTotal") or "0").split()[0]),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        libraries=library_versions(),
        gpus=_gpus(root),
        gpu_driver=_driver(root),
        physical_cores=_physical_cores(_text(root / "proc/cpuinfo")),
        turbo=_turbo(root / "sys/devices/system/cpu"),
        load_average=_load_average(),
    )


def allowed_cpus() -> tuple[int, ...]:
    """CPUs this process may run on, ascending; all of them where the system has no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def library_versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of the installed ones among ``names``, read from their metadata without importing them."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return match.group(1).strip() if match else ""


def _gpus(root: Path) -> tuple[str, ...]:
    folder = root / "proc/driver/nvidia/gpus"
    files = sorted(folder.glob("*/information")) if folder.is_dir() else []
    return tuple(_field(_text(file), "Model") for file in files)


def _driver(root: Path) -> str:
    """E.g. ``580.95.05`` from ``NVRM version: NVIDIA UNIX … Kernel Module  580.95.05  Release Build …``."""
    match = re.search(r"NVRM version:.*?\s(\d+\.\d[\d.]*)\s", _text(root / "proc/driver/nvidia/version"))
    return match.group(1) if match else ""


def _physical_cores(cpuinfo: str) -> int:
    """Different pairs of socket and core; 0 where the system names none (Arm)."""
    blocks = [block for block in cpuinfo.split("\n\n") if _field(block, "core id")]
    return len({(_field(block, "physical id"), _field(block, "core id")) for block in blocks})


def _turbo(folder: Path) -> str:
    """Intel's driver says ``no_turbo``, the others ``boost``."""
    switches = (
        (folder / "intel_pstate/no_turbo", {"0": "on", "1": "off"}),
        (folder / "cpufreq/boost", {"0": "off", "1": "on"}),
    )
    return next((names[state] for path, names in switches if (state := _text(path).strip()) in names), "")


def _load_average() -> float:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return -1.0
