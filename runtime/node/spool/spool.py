"""`Spool`: all that the node has acknowledged, and what became of it; nothing of it is lost, whatever ends the node.

    receiving   incoming/ → instances/ and a row: durable before the sender is answered
    reading     waiting → reading → read, or quarantined
    deliveries  objects/ → waiting → delivered → committed, or quarantined, for every destination
    commitments what senders ask of the node's own safe keeping
    retention   read and all committed → done: the files go, the record stays for ``keep_days``

At least once: work that was interrupted is done again; UIDs make the repeat the same object.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from medfm_compress.runtime.device.lock import exclusive
from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.node.config import SpoolConfig
from medfm_compress.runtime.node.spool import overview
from medfm_compress.runtime.node.spool.receiving import Accepted, IncomingFile, SpoolFull
from medfm_compress.runtime.node.spool.records import Quarantined, SpoolCounts
from medfm_compress.runtime.node.spool.retention import Retention

__all__ = ["Accepted", "IncomingFile", "Spool", "SpoolFull"]


class Spool(Retention):
    """The spool of this process; no other can open it meanwhile."""

    def __init__(self, folder: Path, config: SpoolConfig, *, clock: Callable[[], float] = time.time) -> None:
        """Open the spool in ``folder``, or make it, and put right what an interruption left.

        Raises:
            InputError: another process has it, or it cannot be made or used.
        """
        self._held = ExitStack()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._held.enter_context(exclusive(folder / "lock", patience_s=0.5))
        except (InputError, OSError):
            raise InputError(
                f"the spool {in_one_line(folder)} is in use, or not writable; stop the node that runs on it first"
            ) from None
        try:
            super().__init__(folder, config, clock)
            self.reconcile()
        except (sqlite3.Error, OSError) as exc:
            self._held.close()
            raise InputError(
                f"cannot use the spool {in_one_line(folder)}: {in_one_line(exc)}; make room, or let this user write"
            ) from None
        except BaseException:
            self._held.close()
            raise

    def close(self) -> None:
        """Give database and lock back; what was acknowledged stays."""
        super().close()
        self._held.close()

    def counts(self) -> SpoolCounts:
        """What the spool holds."""
        with self._lock:
            return overview.counts(self._connection)

    def quarantined(self) -> list[Quarantined]:
        """Instances and deliveries that were set aside, by their time of arrival."""
        with self._lock:
            return overview.quarantined(self._connection)

    def delivery_states(self, instance_ids: Sequence[int]) -> dict[int, str]:
        """As `overview.delivery_states`."""
        with self._lock:
            return overview.delivery_states(self._connection, instance_ids)

    def replay(self, instance_ids: Sequence[int] | None = None) -> int:
        """Let instances in quarantine wait again, by default all; return how many.

        Raises:
            InputError: one of them is not in quarantine; nothing has changed then.
        """
        with self._lock:
            number = overview.replay(self._connection, instance_ids)
        self.notify()
        return number

    def replay_deliveries(self, delivery_ids: Sequence[int] | None = None) -> int:
        """Send again what destinations refused, by default all; return how many; likewise."""
        with self._lock:
            number = overview.replay_deliveries(self._connection, delivery_ids)
        self.notify()
        return number
