"""How quiet the machine was while something was measured: recorded beside every figure, so that a reader can judge.

Three witnesses: the kernel's counters (time stolen by the hypervisor, time that other processes computed), the load
average, and a fixed piece of work that is timed before and after. The same work says, before and after every turn,
whether the machine is at its full speed: a virtual one may be at half of it for seconds or minutes, by no doing of its
own, and such a turn is put off or repeated. The work is none of what is compared, so that no result chooses its turns.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TypeVar

import msgspec
import numpy as np

_SIDE, _TIMES = 512, 30
_FEW, _PAUSE_S, _SETTLE_S = 5, 0.1, 0.02
_SLOWER = 1.25  # times its best, above which the reference says that the machine is not at its full speed
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  # columns of /proc/stat, see proc(5)

T = TypeVar("T")


class Quiet(msgspec.Struct, kw_only=True):
    """Of one measurement.

    Attributes:
        load_before: processes that ran or wanted to, average of the minute before.
        steal: share of the machine's processor time that the hypervisor kept for itself.
        others: share that processes computed which are neither this one nor its children.
        reference_ms: median of a fixed matrix product on one thread, before and after.
        waited_s: for the machine's full speed, turns that were taken again included.
        repeated: turns that a slower machine disturbed, and that were taken again.
        disturbed: turns that were recorded on a slower machine, because waiting took too long.
    """

    load_before: float
    steal: float = 0.0
    others: float = 0.0
    reference_ms: tuple[float, float] = (0.0, 0.0)
    waited_s: float = 0.0
    repeated: int = 0
    disturbed: int = 0


class FullSpeed:
    """Takes turns while the machine is at its full speed, as far as a fixed piece of work can tell.

    The work is a product in float32. On the virtual CPU that this was written for it took 1.37 times as long whenever
    INT8 of a ResNet-50 took twice as long, and 5 % of the turns after it had been fast were slow all the same.
    """

    def __init__(self, quiet: Quiet, patience_s: float = 120.0) -> None:
        """``patience_s`` is what all turns together may wait; once it has ended they are taken as they come."""
        self._quiet, self._patience_s = quiet, patience_s
        self._readings_ms: list[float] = []  # of recorded turns
        self._best_ms = min(reference_ms(_FEW) for _ in range(_TIMES))

    def turn(self, take: Callable[[], T]) -> T:
        """What ``take`` gives, at full speed before and after it where that comes in time."""
        while True:
            before, begun = self._wait(), time.monotonic()
            result = take()
            time.sleep(_SETTLE_S)  # threads of an engine may spin on for a while
            reading = max(before, self._reading())
            if self._is_full(reading) or self._quiet.waited_s >= self._patience_s:
                self._readings_ms.append(reading)
                self._quiet.disturbed = sum(not self._is_full(ms) for ms in self._readings_ms)
                return result
            self._quiet.repeated += 1
            self._quiet.waited_s = round(self._quiet.waited_s + time.monotonic() - begun, 3)

    def _wait(self) -> float:
        """The last reading before patience ends, or before the machine is at its full speed."""
        while not self._is_full(reading := self._reading()) and self._quiet.waited_s < self._patience_s:
            time.sleep(_PAUSE_S)
            self._quiet.waited_s = round(self._quiet.waited_s + _PAUSE_S, 3)
        return reading

    def _reading(self) -> float:
        now = reference_ms(_FEW)
        self._best_ms = min(self._best_ms, now)
        return now

    def _is_full(self, reading_ms: float) -> bool:
        return reading_ms <= _SLOWER * self._best_ms


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


def reference_ms(times: int = _TIMES) -> float:
    """Median of ``times`` float32 products of 512 × 512 matrices; `OMP_NUM_THREADS` and its like should be 1."""
    factor = np.random.default_rng(0).standard_normal((_SIDE, _SIDE), dtype=np.float32)
    result, spent = np.empty_like(factor), []
    for _ in range(times):
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
