"""How long work says where it is: one line at a time, to whoever wants to hear it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Progress = Callable[[str], None]
Item = TypeVar("Item")


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

    def __new__(cls, work: str, done: int, total: int, elapsed_s: float) -> Tick:
        """A tick after ``elapsed_s`` seconds of the work."""
        total = max(done, total)  # what was counted beforehand may have grown
        tick = super().__new__(cls, f"{work}: {done} of {total}")
        tick.work, tick.done, tick.total = work, done, total
        tick.left_s = elapsed_s * (total - done) / max(done, 1)
        return tick


def no_progress(_: str) -> None:
    """Nobody wants to hear it."""


def counted(items: Iterable[Item], work: str, total: int, progress: Progress | None, each: int = 1) -> Iterator[Item]:
    """Yield ``items``, and tell of each when it is done.

    Args:
        items: parts of the work, done one after the other by whoever iterates.
        work: what is being done.
        total: of what is counted.
        progress: receives a `Tick` after each item.
        each: how much of the total an item is; the last may be less.
    """
    start = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if progress:
            done = number * each if each == 1 else min(number * each, total)
            progress(Tick(work, done, total, time.monotonic() - start))


def duration_in_words(seconds: float) -> str:
    """``8 s``, ``3 min`` or ``2 h 05 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
