"""The keeper: forgets what is done, and keeps the gauges of the spool up to date."""

from __future__ import annotations

import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from medfm_compress.runtime.errors import in_one_line
from medfm_compress.runtime.node.audit import Audit
from medfm_compress.runtime.node.metrics import Metrics
from medfm_compress.runtime.node.progress import Progress
from medfm_compress.runtime.node.spool.spool import Spool

NAME = "keeper"
EVERY_S = 2.0
_LIMIT_S = 300.0
_CLOCK_STEP_S = 5.0

_log = logging.getLogger("medfm_compress.runtime.node")


class Keeper:
    """A thread that looks after the spool.

    Attributes:
        fault: why it cannot; empty while it can.
    """

    fault = ""

    def __init__(
        self,
        spool: Spool,
        audit: Audit,
        metrics: Metrics,
        progress: Progress,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spool, self._audit, self._metrics, self._progress = spool, audit, metrics, progress
        self._clock, self._seen_at = clock, clock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
        metrics.gauge("start_time_seconds", self._seen_at)

    def start(self) -> None:
        """Begin."""
        self._progress.watch(NAME, self._thread.is_alive, _LIMIT_S)
        self._thread.start()

    def stop(self, within_s: float) -> None:
        """End."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)

    def look(self) -> None:
        """Forget what is done, count the rest, and see whether the clock has gone back."""
        now, before = self._clock(), self._seen_at
        if now < before - _CLOCK_STEP_S:
            _log.warning("the clock has gone back by %.0f s: what waited for a time is tried now", before - now)
            self._spool.end_waits()
        self._seen_at = now
        self._spool.forget_done(now)
        for uid in self._spool.forget_discarded():
            self._audit.record("discarded", instance=uid)
        counts = self._spool.counts()
        self._metrics.gauges("instances", {(("state", state),): n for state, n in counts.instances.items()})
        self._metrics.gauges(
            "deliveries",
            {
                (("destination", destination), ("state", state)): n
                for destination, states in counts.deliveries.items()
                for state, n in states.items()
            },
        )
        self._metrics.gauges("quarantine", {(("reason", reason),): n for reason, n in counts.quarantine.items()})
        self._metrics.gauge("spool_bytes", counts.bytes)
        oldest = counts.oldest_waiting_at
        self._metrics.gauge("oldest_waiting_seconds", max(0.0, now - oldest) if oldest is not None else 0.0)
        self._metrics.gauge("resident_bytes", resident_bytes())

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self._progress.beat(NAME)
            try:
                self.look()
                fault = ""
            except (OSError, sqlite3.Error) as exc:  # a full disk: again later
                fault = f"the spool cannot be looked after: {in_one_line(exc)}"
            if fault and fault != self.fault:
                _log.error("%s; trying again", fault)
            self.fault = fault


def resident_bytes() -> int:
    """Memory of this process that lies in RAM; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0
    try:
        fields = Path("/proc/self/status").read_text(encoding="ascii")
        kilobytes = next(line.split()[1] for line in fields.splitlines() if line.startswith("VmRSS:"))
    except (OSError, StopIteration):
        return 0
    return 1024 * int(kilobytes)
