"""A bar with the time that is left, where a terminal shows it; a line a tenth of the work where none does."""

from __future__ import annotations

import os
import shutil
import sys
import time

from medfm_compress.runtime.progress import Tick, duration_in_words

_BAR = 20  # characters
_REDRAW_S = 0.1
_START_OF_LINE = "\r\x1b[K"  # and what stands in it is erased


class ProgressBar:
    """What is drawn of the work under way on standard error."""

    def __init__(self) -> None:
        self._work, self._tenth = "", -1
        self._drawn, self._drawn_at = False, 0.0

    def show(self, tick: Tick, prefix: str) -> None:
        """Draw ``tick``, or print it where it is a tenth further than what was printed last."""
        if not _is_terminal():
            self._print(tick, prefix)
        elif tick.done == tick.total:
            self.clear()
            sys.stderr.write(f"{prefix}{tick}\n")
        elif time.monotonic() - self._drawn_at >= _REDRAW_S:
            self._draw(tick)
        sys.stderr.flush()

    def clear(self) -> None:
        """Erase the bar, so that a line can take its place."""
        if self._drawn:
            self._drawn = False
            sys.stderr.write(_START_OF_LINE)
            sys.stderr.flush()

    def _draw(self, tick: Tick) -> None:
        full = _BAR * tick.done // tick.total
        line = f"[{'#' * full}{'.' * (_BAR - full)}] {tick}{_left(tick)}"
        width = shutil.get_terminal_size().columns - 1
        sys.stderr.write(_START_OF_LINE + line[:width])
        self._drawn, self._drawn_at = True, time.monotonic()

    def _print(self, tick: Tick, prefix: str) -> None:
        tenth = 10 * tick.done // tick.total
        if (self._work, self._tenth) != (tick.work, tenth):
            self._work, self._tenth = tick.work, tenth
            sys.stderr.write(f"{prefix}{tick}{_left(tick)}\n")


def _left(tick: Tick) -> str:
    return f", {duration_in_words(tick.left_s)} left" if tick.done < tick.total else ""


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
