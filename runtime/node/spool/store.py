"""`Store`: the database and the folders of a spool, and what every part of it needs of them.

One connection for all threads of the process, used by one at a time; SQLite itself keeps other processes out.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medfm_compress.runtime.device.disk import Disk
from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.node.config import SpoolConfig
from medfm_compress.runtime.node.spool.schema import INCOMING, INSTANCES, OBJECTS, connect

__all__ = ["INCOMING", "INSTANCES", "OBJECTS", "Store"]


class Store:
    """Base of the spool's parts.

    Attributes:
        folder: of the spool.
        config: bounds.
    """

    def __init__(self, folder: Path, config: SpoolConfig, clock: Callable[[], float] = time.time) -> None:
        """Open the spool in ``folder``; it and its folders are made where they are missing, for this user only.

        Raises:
            InputError: they cannot be made or used.
        """
        self.folder, self.config, self._clock, self._disk = folder, config, clock, Disk()
        try:
            for path in (folder, *(folder / name for name in (INCOMING, INSTANCES, OBJECTS))):
                _make_private(path)
            self._connection = connect(folder, make=True)
            self._disk.sync_folder(folder)
            self._disk.sync_folder(folder.parent)
        except OSError as exc:
            raise InputError(
                f"cannot make the spool in {in_one_line(folder)}: {in_one_line(exc)}; choose one that can be written"
            ) from None
        self._lock = threading.RLock()
        self._news = threading.Condition()
        self._serial = 0

    def close(self) -> None:
        """Give the database back; what was acknowledged stays."""
        with self._lock:
            self._connection.close()
        self.notify()

    def notify(self) -> None:
        """Wake everybody who sleeps in `wait`."""
        with self._news:
            self._serial += 1
            self._news.notify_all()

    def news(self) -> int:
        """A number that changes with every `notify`; take it before looking for work, and give it to `wait`."""
        with self._news:
            return self._serial

    def wait(self, timeout: float, since: int | None = None) -> bool:
        """Sleep until there is something new, for ``timeout`` seconds at most; whether there is.

        Args:
            timeout: seconds.
            since: of `news`: what came after it counts as new already.
        """
        with self._news:
            start = self._serial if since is None else since
            return self._news.wait_for(lambda: self._serial != start, timeout)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is on the disk when the block is left, or has changed nothing."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _row(self, query: str, *values: object) -> sqlite3.Row | None:
        rows = self._rows(query, *values)
        return rows[0] if rows else None


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name != "nt":
        path.chmod(0o700)
