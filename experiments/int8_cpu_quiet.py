"""How quiet the machine was while something was measured: recorded beside every figure, so that a reader can judge.

Three witnesses: the kernel's counters (time stolen by the hypervisor, time that other processes computed), the load
average, and a fixed piece of work that is timed before and after.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

_SIDE, _TIMES = 512, 30
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # columns of /proc/stat, see proc(5)


class Quiet(msgspec.Struct, kw_only=True):
    """Of one measurement.

    Attributes:
        load_before: processes that ran or wanted to, average of the minute before.
        steal: share of the machine's processor time that the hypervisor kept for itself.
        others: share that processes computed which are neither this one nor its children.
        reference_ms: median of a fixed matrix product on one thread, before and after.
    """

    load_before: float
    steal: float = 0.0
    others: float = 0.0
    reference_ms: tuple[float, float] = (0.0, 0.0)


@contextmanager
def watched_machine() -> Iterator[Quiet]:
    """The record, complete once the block has ended; children must have ended with it."""
    quiet = Quiet(load_before=round(os.getloadavg()[0], 2))
    before = reference_ms()
    ticks, own = _ticks(), _own_s()
    yield quiet
    spent, own = [b - a for a, b in zip(ticks, _ticks(), strict=True)], _own_s() - own
    whole = sum(spent) or 1
    busy_s = (whole - spent[_IDLE] - spent[_IOWAIT] - spent[_STEAL]) / os.sysconf("SC_CLK_TCK")
    quiet.steal = round(spent[_STEAL] / whole, 4)
    quiet.others = round(max(busy_s - own, 0.0) * os.sysconf("SC_CLK_TCK") / whole, 4)
    quiet.reference_ms = (before, reference_ms())


def reference_ms() -> float:
    """Median of a float32 matrix product, 512 × 512 × 512; `OMP_NUM_THREADS` and its like should say one thread."""
    factor = np.random.default_rng(0).standard_normal((_SIDE, _SIDE), dtype=np.float32)
    result, spent = np.empty_like(factor), []
    for _ in range(_TIMES):
        start = time.perf_counter()
        np.matmul(factor, factor, out=result)
        spent.append(1000 * (time.perf_counter() - start))
    return round(median(spent), 3)


def _ticks() -> list[int]:
    """Of all processors together: user, nice, system, idle, iowait, irq, softirq, steal."""
    return [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def _own_s() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system
