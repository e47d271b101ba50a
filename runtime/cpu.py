"""What the CPU can do: its instruction sets in Linux's spelling, and the cores this process may use."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

_CPUINFO = Path("/proc/cpuinfo")
_SMT = Path("/sys/devices/system/cpu/smt/active")


class Cpu(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A CPU as the operating system describes it.

    Attributes:
        model: marketing name, or the architecture where there is none.
        flags: instruction-set flags as Linux spells them, lower case, e.g. ``avx512_vnni`` or ``asimddp``.
        reason: why ``flags`` is empty, where it is.
    """

    model: str
    flags: frozenset[str] = frozenset()
    reason: str = ""


def read_cpu(cpuinfo: Path = _CPUINFO) -> Cpu:
    """Read the first processor of ``cpuinfo``; on another system the flags are empty, with the reason."""
    model, flags = "", frozenset[str]()
    try:
        with cpuinfo.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                if key == "model name":
                    model = value.strip()
                if key in ("flags", "features"):  # x86 and Arm
                    flags = frozenset(value.lower().split())
                    break
    except OSError:
        reason = f"the CPU's instruction sets cannot be read on {platform.system() or 'this system'}"
        return Cpu(model=platform.machine(), reason=reason)
    reason = "" if flags else f"{cpuinfo} names no instruction sets"
    return Cpu(model=model or platform.machine(), flags=flags, reason=reason)


def missing_flags(needed: Iterable[str], cpu: Cpu) -> tuple[str, ...]:
    """Those of ``needed`` that ``cpu`` does not meet; ``"a|b"`` is met by either, ``"!a"`` by a CPU without ``a``."""
    return tuple(need for need in needed if not any(_meets(flag, cpu) for flag in need.lower().split("|")))


def _meets(flag: str, cpu: Cpu) -> bool:
    # A CPU whose flags cannot be read meets nothing, not even an absence.
    return bool(cpu.flags) and flag[1:] not in cpu.flags if flag.startswith("!") else flag in cpu.flags


def usable_cpus() -> int:
    """Logical CPUs that this process may run on: those of its affinity mask; at least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def usable_cores(smt: Path = _SMT) -> int:
    """Physical cores that this process may run on: `usable_cpus`, halved where SMT is on; at least 1."""
    try:
        threads_per_core = 2 if smt.read_text().strip() == "1" else 1
    except OSError:
        threads_per_core = 1
    return max(1, usable_cpus() // threads_per_core)


def idle_cpus(seconds: float = 0.2, stat: Path = Path("/proc/stat")) -> float | None:
    """How many of the CPUs that this process may use nobody used in the next ``seconds``; None where not known.

    This process itself sleeps meanwhile, so what is busy is others' work, or other threads of its own.
    """
    before = _idle_and_total(stat)
    time.sleep(seconds)
    after = _idle_and_total(stat)
    shares = [
        (after[cpu][0] - before[cpu][0]) / (after[cpu][1] - before[cpu][1])
        for cpu in before.keys() & after.keys()
        if after[cpu][1] > before[cpu][1]
    ]
    return sum(shares) if shares else None


def _idle_and_total(stat: Path) -> dict[str, tuple[int, int]]:
    """Ticks idle, and in all, of each allowed CPU since the system started (proc(5))."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = {f"cpu{number}" for number in affinity(0)} if affinity else set()
    try:
        rows = [line.split() for line in stat.read_text().splitlines()]
        ticks = {row[0]: [int(value) for value in row[1:9]] for row in rows if row and row[0] in allowed}
    except (OSError, ValueError):
        return {}
    # user nice system idle iowait irq softirq steal
    return {cpu: (values[3] + values[4], sum(values)) for cpu, values in ticks.items()}


def memory_bytes() -> int:
    """Physical memory in bytes; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
