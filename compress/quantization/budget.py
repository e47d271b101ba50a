"""`Budget`: how much work a search may do. What counts is processor time, not waiting for a processor.

So a search on a busy machine tries as many candidates as on a quiet one. The clock on the wall is a second, generous
limit, for machines on which waiting never ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from medfm_compress.runtime.progress import duration_in_words

_WALL = 5.0  # seconds of the clock for each second of work


def processor_seconds() -> float:
    """Processor time of this process, all its threads, and of the children that have ended."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


class Budget:
    """Seconds of processor time from now on."""

    def __init__(
        self,
        work_s: float,
        work: Callable[[], float] = processor_seconds,
        wall: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin.

        Args:
            work_s: processor time that may be spent, in s; 0 is used up at once.
            work: clock of processor time, in s.
            wall: clock that goes on while the process waits, in s.
        """
        self._work, self._wall, self._work_s = work, wall, work_s
        self._work_end, self._wall_end = work() + work_s, wall() + _WALL * work_s

    def deadline(self) -> float:
        """`time.monotonic` at which a single candidate should end that takes long: twice the work that is left."""
        left = max(self._work_end - self._work(), 0.0)
        return min(self._wall_end, self._wall() + 2 * left)

    def left_in_words(self) -> str:
        """How much of it is left, e.g. ``2 min of 5 min``, for a line of progress."""
        left = min(max(self._work_end - self._work(), 0.0), self._work_s)
        return f"{duration_in_words(left)} of {duration_in_words(self._work_s)}"

    def exhausted(self) -> str:
        """Why nothing further is begun; empty while there is something left."""
        if self._work() >= self._work_end:
            return "the time budget was used up"
        if self._wall() >= self._wall_end:
            return f"the machine was too busy: the clock ran {_WALL:g} times the time budget"
        return ""
