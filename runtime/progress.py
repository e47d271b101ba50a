"""How long work says where it is: one line at a time, to whoever wants to hear it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Progress = Callable[[str], None]
Item = TypeVar("Item")
_EVERY_S = 0.1


class Tick(str):
    """A line about work whose size is known; it takes the place of the one before of the same work.

    Attributes:
        work: what is being done; the same in every tick of it.
        done: parts that are done.
        total: parts there are.
        left_s: seconds that the rest will take, were it as fast as what is done.
    """

    __slots__ = ("done", "left_s", "total", "work")

    work: str
    done: int
    total: int
    left_s: float

    def __new__(cls, work: str, done: int, total: int, left_s: float) -> Tick:
        """A tick of ``work``."""
        tick = super().__new__(cls, f"{work}: {done} of {total}")
        tick.work, tick.done, tick.total, tick.left_s = work, done, total, left_s
        return tick


def no_progress(_: str) -> None:
    """Nobody wants to hear it."""


def counted(items: Iterable[Item], work: str, total: int, progress: Progress | None, each: int = 1) -> Iterator[Item]:
    """Yield ``items``, and tell how many are done, ten times a second at most and of the last in any case.

    Args:
        items: parts of the work, done one after the other by whoever iterates.
        work: what is being done.
        total: of what is counted.
        progress: receives a `Tick` after an item.
        each: how much of the total an item is; the last may be less.
    """
    started = told = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        done, now = min(number * each, total), time.monotonic()
        if progress and total and (done == total or now - told >= _EVERY_S):
            told = now
            progress(Tick(work, done, total, (now - started) * (total - done) / done))


def duration_in_words(seconds: float) -> str:
    """``8 s``, ``3 min`` or ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
