"""`Progress`: whether every worker is alive and gets on; one that does not keeps the watchdog from being fed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple


class _Worker(NamedTuple):
    limit_s: float
    alive: Callable[[], bool]


class Progress:
    """What the workers say of themselves; safe to use from several threads."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._workers: dict[str, _Worker] = {}
        self._beats: dict[str, float] = {}

    def watch(self, name: str, alive: Callable[[], bool], limit_s: float = float("inf")) -> None:
        """Expect ``name`` to be alive, and to `beat` at least every ``limit_s``."""
        with self._lock:
            self._workers[name] = _Worker(limit_s, alive)
            self._beats[name] = self._clock()

    def beat(self, name: str) -> None:
        """``name`` gets on."""
        with self._lock:
            self._beats[name] = self._clock()

    def dead(self) -> list[str]:
        """Workers that have ended."""
        with self._lock:
            workers = dict(self._workers)
        return [name for name, worker in workers.items() if not worker.alive()]

    def stuck(self) -> list[str]:
        """Workers that have not got on for longer than they may."""
        with self._lock:
            now = self._clock()
            return [name for name, worker in self._workers.items() if now - self._beats[name] > worker.limit_s]
