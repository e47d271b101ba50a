"""Taking an instance in: its bytes in ``incoming/`` as they come, then the file in ``instances/`` and a row, durably.

The order, of which any step may be the last: the file's content is synced; it is renamed; its folder is synced; the row
is committed; only then the sender is answered. A file without a row was never acknowledged, and goes when the spool is
next opened; there is never a row without its file.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from medfm_compress.runtime.errors import MedfmError
from medfm_compress.runtime.node.spool.records import Arrival
from medfm_compress.runtime.node.spool.store import INCOMING, INSTANCES, Store

_GB = 1e9


class SpoolFull(MedfmError):
    """There is no room for more; what was being received is not kept."""


class Accepted(NamedTuple):
    """What `Receiving.accept` did.

    Attributes:
        repeated: the same bytes under the same SOP instance UID were there already, and nothing was added.
    """

    instance_id: int
    repeated: bool


class IncomingFile:
    """A data set on its way in; a binary writer.

    Attributes:
        path: where it lies until it is accepted.
        data_bytes: of the data set so far.
    """

    def __init__(self, path: Path, spool: Receiving) -> None:
        self.path, self.data_bytes, self._bytes, self._spool = path, 0, 0, spool
        self._file = path.open("xb", buffering=0)
        self._digest = hashlib.sha256()

    @property
    def file(self) -> IncomingFile:
        """The writer of the data set: this object."""
        return self

    @property
    def size(self) -> int:
        """Of the whole file so far."""
        return self._bytes

    def write_header(self, header: bytes) -> None:
        """Write preamble and file meta information: they are no part of the digest."""
        self._append(header)

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Append to the data set.

        Raises:
            SpoolFull: the spool or the disk has no room for it.
            OSError: it cannot be written.
        """
        self._digest.update(data)
        self.data_bytes += len(data)
        self._append(data)
        return len(data)

    def digest(self) -> str:
        """SHA-256 of the data set so far, in hexadecimal."""
        return self._digest.hexdigest()

    def sync(self) -> None:
        """Return when the content is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Give the descriptor back."""
        self._file.close()

    def _append(self, data: bytes | bytearray | memoryview) -> None:
        self._spool.check_room(len(data))
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) or 0 :]
        self._bytes += len(data)
        self._spool.count_bytes(len(data))


class Receiving(Store):
    """The spool's way in."""

    _used_bytes = 0  # of instances, objects and what is coming in; counted when the spool is opened

    def has_room(self, more_bytes: int = 0) -> bool:
        """Whether ``more_bytes`` may still come: within ``max_gb``, and ``min_free_gb`` left on the disk."""
        if self._used_bytes + more_bytes > self.config.max_gb * _GB:
            return False
        return shutil.disk_usage(self.folder).free - more_bytes >= self.config.min_free_gb * _GB

    def check_room(self, more_bytes: int) -> None:
        """Raise SpoolFull unless `has_room`."""
        if not self.has_room(more_bytes):
            raise SpoolFull("the spool has no room; deliver or remove what it holds, or raise spool.max_gb")

    def count_bytes(self, change: int) -> None:
        """Add to the bytes in use."""
        with self._lock:
            self._used_bytes += change

    @contextmanager
    def incoming(self) -> Iterator[IncomingFile]:
        """A file for a data set that is coming in; it is removed when the block is left, unless it was accepted.

        Raises:
            SpoolFull: there is no room.
            OSError: it cannot be made.
        """
        incoming = self.begin_incoming()
        try:
            yield incoming
        finally:
            self.discard_incoming(incoming)

    def begin_incoming(self) -> IncomingFile:
        """As `incoming`, where begin and end are in different places: `discard_incoming` ends it in any case."""
        self.check_room(0)
        return IncomingFile(self.folder / INCOMING / f"{secrets.token_hex(16)}.dcm", self)

    def discard_incoming(self, incoming: IncomingFile) -> None:
        """Close the file, and remove it unless it was accepted; may be repeated."""
        incoming.close()
        with suppress(FileNotFoundError):
            incoming.path.unlink()
            self.count_bytes(-incoming.size)

    def accept(self, incoming: IncomingFile, arrival: Arrival) -> Accepted:
        """Keep the file, durably; when this returns, the sender may be answered with success.

        Raises:
            SpoolFull, OSError: nothing was accepted.
        """
        try:
            return self._accept(incoming, arrival)
        except sqlite3.Error as exc:
            raise OSError(f"the spool's database: {exc}") from exc

    def _accept(self, incoming: IncomingFile, arrival: Arrival) -> Accepted:
        digest = incoming.digest()
        known = self._known(arrival.sop_instance_uid, digest)
        if known is not None:
            return Accepted(known, True)
        incoming.sync()
        target = self.folder / INSTANCES / incoming.path.name
        self._disk.rename(incoming.path, target)
        try:
            self._disk.sync_folder(target.parent)
            accepted = self._insert(incoming, arrival, digest)
        except sqlite3.Error:  # its row may yet turn up: the file stays until reconciled
            raise
        except BaseException:
            self._remove_unaccepted(target, incoming.size)
            raise
        if accepted.repeated:  # by another association, meanwhile
            self._remove_unaccepted(target, incoming.size)
        else:
            self.notify()
        return accepted

    def _known(self, sop_instance_uid: str, digest: str) -> int | None:
        """The instance with these bytes, unless its file has vanished, which no crash of the node or machine does."""
        row = self._row(
            "SELECT id, state, file, bytes FROM instances WHERE sop_instance_uid = ? AND digest = ? "
            "AND state != 'discarded'",
            *(sop_instance_uid, digest),
        )
        if row is None or not (row["state"] == "done" or self._is_whole(row["file"], row["bytes"])):
            return None
        return int(row["id"])

    def _is_whole(self, name: str, size: int) -> bool:
        try:
            return (self.folder / INSTANCES / name).stat().st_size == size
        except FileNotFoundError:
            return False

    def _insert(self, incoming: IncomingFile, arrival: Arrival, digest: str) -> Accepted:
        now = self._clock()
        deadline = None if self.config.deadline_s is None else now + self.config.deadline_s
        with self._transaction() as database:
            known = self._known(arrival.sop_instance_uid, digest)
            if known is not None:
                return Accepted(known, True)
            row = database.execute(
                "INSERT INTO instances (sop_class_uid, sop_instance_uid, transfer_syntax_uid, sender, priority, file,"
                " digest, bytes, received_at, deadline_at, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'waiting')"
                " ON CONFLICT (sop_instance_uid, digest) DO UPDATE SET file = excluded.file, bytes = excluded.bytes,"
                " state = 'waiting', attempts = 0, reason_code = '', reason = '' RETURNING id",
                (
                    *(arrival.sop_class_uid, arrival.sop_instance_uid, arrival.transfer_syntax_uid),
                    *(arrival.sender, arrival.priority, incoming.path.name, digest, incoming.size, now, deadline),
                ),
            ).fetchone()
            return Accepted(int(row["id"]), False)

    def _remove_unaccepted(self, path: Path, size: int) -> None:
        with suppress(OSError):
            path.unlink()
            self.count_bytes(-size)
