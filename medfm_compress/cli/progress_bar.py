"""A bar with the time that is left, where a terminal shows it; where none does, a line now and then."""

from __future__ import annotations

import os
import shutil
import sys
import time

from medfm_compress.cli.streams import visible, write_error
from medfm_compress.runtime.progress import Tick, duration_in_words

_BAR = 20  # characters
_LINE_EVERY_S = 5.0  # where no terminal is
_START_OF_LINE = "\r\x1b[K"  # and what stands in it is erased


class ProgressBar:
    """What is drawn of the work under way on standard error."""

    def __init__(self) -> None:
        self._drawn = False
        self._work, self._tenth, self._printed_at = "", 0, 0.0

    def show(self, tick: Tick, prefix: str) -> None:
        """Draw ``tick``; or print it, where it is the last, or a tenth and some seconds after what was printed."""
        if not _is_terminal():
            self._print(tick, prefix)
        elif tick.done == tick.total:
            self.clear()
            write_error(f"{prefix}{visible(tick)}\n")
        else:
            self._draw(tick)

    def clear(self) -> None:
        """Erase the bar, so that a line can take its place."""
        if self._drawn:
            self._drawn = False
            write_error(_START_OF_LINE)

    def _draw(self, tick: Tick) -> None:
        full = _BAR * tick.done // tick.total
        line = f"[{'#' * full}{'.' * (_BAR - full)}] {visible(tick)}{_left(tick)}"
        width = shutil.get_terminal_size().columns - 1
        write_error(_START_OF_LINE + line[:width])
        self._drawn = True

    def _print(self, tick: Tick, prefix: str) -> None:
        tenth, now = 10 * tick.done // tick.total, time.monotonic()
        if tick.work != self._work:
            self._work, self._tenth, self._printed_at = tick.work, 0, now
        if tick.done == tick.total or (tenth > self._tenth and now - self._printed_at >= _LINE_EVERY_S):
            self._tenth, self._printed_at = tenth, now
            write_error(f"{prefix}{visible(tick)}{_left(tick)}\n")


def _left(tick: Tick) -> str:
    return f", {duration_in_words(tick.left_s)} left" if tick.done < tick.total else ""


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
