"""Energy of calls, from counters that the machine keeps of itself.

- RAPL (``/sys/class/powercap/intel-rapl:*``; the same driver and folder serve AMD's Zen): ``energy_uj`` of every
  processor package in µJ, and of its memory where that is counted apart. It wraps around at ``max_energy_range_uj``,
  after minutes at full power, so a turn of calls sees at most one wrap. The zone ``psys`` contains the packages and
  ``intel-rapl-mmio`` repeats one: neither is added. Source: Linux, Documentation/power/powercap/powercap.rst.
- NVML: ``nvmlDeviceGetTotalEnergyConsumption`` in mJ of the GPUs on which this process computes.

Both count the whole package or board, idle power and neighbours included: figures of one machine at rest can be
compared, a figure alone is an upper bound. Since Linux 5.10 only root may read RAPL unless the administrator allows
it; virtual machines rarely have it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from medfm_compress.bench.measure.gpu_memory import NEEDS, devices_of_process, nvml

POWERCAP = "sys/class/powercap"
COUNTERS = ("rapl", "nvml")
_MJ_PER_UJ = 1e-3


class EnergyCounter(NamedTuple):
    """Counters that are read before and after what is to be measured.

    Attributes:
        source: ``rapl`` or ``nvml``, or the reason why there is no counter.
        read: current values, one a counter; empty where they cannot be read.
        ranges: value at which each counter starts again from 0; 0 for never.
        mj_per_unit: mJ of one count.
    """

    source: str
    read: Callable[[], tuple[int, ...]]
    ranges: tuple[int, ...] = ()
    mj_per_unit: float = 1.0

    def spent_mj(self, before: tuple[int, ...], after: tuple[int, ...]) -> float | None:
        """Energy in mJ between two readings; None where there is no counter."""
        if not before or len(before) != len(after):
            return None
        steps = zip(before, after, self.ranges, strict=True)
        return self.mj_per_unit * sum(_forward(start, stop, limit) for start, stop, limit in steps)


def find_counter(*, on_gpu: bool, root: Path = Path("/")) -> EnergyCounter:
    """The counter that belongs to where a session runs.

    Args:
        on_gpu: whether it runs on a GPU; then only the GPU's energy is counted.
        root: folder that holds ``sys``.
    """
    return _nvml_counter() if on_gpu else _rapl_counter(root / POWERCAP)


class _Zone(NamedTuple):
    energy: Path
    range_uj: int


def _rapl_counter(folder: Path) -> EnergyCounter:
    zones, reason = _zones(folder)
    if not zones:
        return EnergyCounter(source=reason, read=tuple)
    ranges = tuple(zone.range_uj for zone in zones)
    return EnergyCounter("rapl", lambda: _read_all(zones), ranges, _MJ_PER_UJ)


def _zones(folder: Path) -> tuple[tuple[_Zone, ...], str]:
    """Packages and the memory beside them, or none and the reason."""
    packages = [path for path in sorted(folder.glob("intel-rapl:*")) if _text(path / "name").startswith("package")]
    if not packages:
        return (), f"no RAPL counter under /{POWERCAP} (virtual machines rarely have one)"
    memory = [path for package in packages for path in sorted(package.glob("intel-rapl:*")) if _is_memory(path)]
    try:
        counters = tuple(
            _Zone(path / "energy_uj", int(_text(path / "max_energy_range_uj") or 0)) for path in packages + memory
        )
        for zone in counters:
            int(zone.energy.read_text())
    except PermissionError:
        return (), "the RAPL counter may not be read by this user; run as root or allow reading of energy_uj"
    except (OSError, ValueError):
        return (), "the RAPL counter cannot be read"
    return counters, ""


def _is_memory(zone: Path) -> bool:
    return _text(zone / "name") == "dram"


def _read_all(zones: tuple[_Zone, ...]) -> tuple[int, ...]:
    try:
        return tuple(int(zone.energy.read_text()) for zone in zones)
    except (OSError, ValueError):
        return ()


def _nvml_counter() -> EnergyCounter:
    if not _read_nvml():
        return EnergyCounter(source=f"no energy counter of the GPU (it needs NVML: {NEEDS})", read=tuple)
    return EnergyCounter("nvml", _read_nvml, (0,), 1.0)


def _read_nvml() -> tuple[int, ...]:
    """Total of the process's GPUs in mJ; empty where NVML or the counter is missing."""
    with nvml() as library:
        if library is None:
            return ()
        try:
            devices = devices_of_process(library)
            energies = [int(library.nvmlDeviceGetTotalEnergyConsumption(device)) for device in devices]
            return (sum(energies),) if energies else ()
        except library.NVMLError:
            return ()


def _forward(start: int, stop: int, limit: int) -> int:
    """Counts from ``start`` to ``stop``, over at most one wrap at ``limit``."""
    return stop - start if stop >= start else stop - start + limit


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
