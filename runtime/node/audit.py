"""Audit trail: one JSON object a line, each with the SHA-256 of the line before it, in files of bounded size.

    FOLDER/audit/audit-00000001.jsonl        {"number": n, "at": "…Z", "event": "…", "previous": "hex", …facts}

A line that was altered, removed, or put in breaks the chain at its place. Lines removed at the end do not: keep the
head (number and digest of the last line), which the log also gets at every start and end, somewhere else. No patient
data: UIDs are marks (`identifiers`). A line is with the system when `record` returns, so that it survives a killed
process; it is on the disk after ``durable=True``, or a second later.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from medfm_compress.runtime.errors import InputError, Refused, in_one_line, printable
from medfm_compress.runtime.node.identifiers import Marks

FOLDER = "audit"
MAX_FILE_BYTES = 16 << 20
MAX_FILES = 64
"""The oldest goes first: 1 GB, some million events."""
SYNC_EVERY_S = 1.0
MAX_STRANGERS = 120
"""Lines a minute about those who were not let in: the rest is one line, so that nobody drives older events out."""
_MINUTE_S = 60.0
_FIRST = "0" * 64
_LONGEST = 200
_OURS = frozenset({"number", "at", "event", "previous"})


class Head(NamedTuple):
    """The end of a trail: whoever keeps it sees whether lines were cut off."""

    number: int = 0
    digest: str = _FIRST


class Audit:
    """The trail of one node; safe to use from several threads, of one process."""

    def __init__(self, folder: Path, marks: Marks, *, clock: Callable[[], float] = time.time) -> None:
        """Go on with the trail in ``folder / audit``.

        A last line that a power failure left incomplete is cut off, and an event says so.

        Raises:
            InputError: the folder cannot be written.
            Refused: the last file is damaged before its end.
        """
        self.folder, self._marks, self._clock = folder / FOLDER, marks, clock
        self._lock, self._lost = threading.Lock(), 0
        self._file, self._bytes, self._synced_at = -1, 0, 0.0
        self._strangers, self._minute_from = 0, 0.0
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = max(_files(self.folder), default=self.folder / _name(1))
            cut, self._head = _mended(path)
            self._open(path)
        except OSError as exc:
            raise InputError(
                f"cannot write the audit trail in {self.folder}: {exc.strerror}; make it writable"
            ) from None
        if cut:
            self.record("audit-mended", durable=True, bytes=cut)

    @property
    def head(self) -> Head:
        """Number and digest of the last line."""
        return self._head

    def record(self, event: str, /, *, durable: bool = False, **facts: Any) -> None:
        """Add a line.

        Args:
            event: one word or several with hyphens.
            durable: return only when it is on the disk.
            facts: what there is to know; no patient data. UIDs in them become marks.

        Where it cannot be written, e.g. because the disk is full, the node goes on, and ``audit-gap`` stands in the
        trail later with the number of lines that are missing.

        Raises:
            OSError: ``durable``, and it cannot be written.
        """
        safe = {name: self._safe(value) for name, value in facts.items() if name not in _OURS}
        with self._lock:
            try:
                if event == "refused" and "way" in facts and self._is_one_too_many():
                    return
                if self._lost:
                    self._add("audit-gap", {"lines": self._lost})
                    self._lost = 0
                self._add(event, safe)
                self._sync(at_once=durable)
            except OSError:
                self._lost += 1
                if durable:
                    raise

    def _is_one_too_many(self) -> bool:
        """Whether this minute has its lines about strangers; of the minute before the rest is counted in one."""
        now = time.monotonic()
        if now - self._minute_from >= _MINUTE_S:
            rest = self._strangers - MAX_STRANGERS
            self._strangers, self._minute_from = 0, now
            if rest > 0:
                self._add("refused-more", {"lines": rest})
        self._strangers += 1
        return self._strangers > MAX_STRANGERS

    def _add(self, event: str, facts: dict[str, Any]) -> None:
        number, previous = self._head.number + 1, self._head.digest
        line = msgspec.json.encode(
            {"number": number, "at": _written(self._clock()), "event": event, "previous": previous, **facts}
        )
        if self._bytes >= MAX_FILE_BYTES:
            self._rotate()
        self._write(line + b"\n")
        self._head = Head(number, hashlib.sha256(line).hexdigest())

    def _sync(self, *, at_once: bool) -> None:
        now = time.monotonic()
        if at_once or now - self._synced_at >= SYNC_EVERY_S:
            os.fsync(self._file)
            self._synced_at = now

    def sync(self) -> None:
        """Put on the disk what is not yet there."""
        with self._lock:
            self._sync(at_once=True)

    def close(self) -> None:
        """Put everything on the disk and close the file."""
        with self._lock:
            if self._file >= 0:
                os.fsync(self._file)
                os.close(self._file)
            self._file = -1

    def _safe(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return [self._safe(item) for item in value[:_LONGEST]]
        return self._marks.hidden(printable(str(value)))[:_LONGEST]

    def _open(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._bytes, self._path, self._synced_at = os.fstat(self._file).st_size, path, time.monotonic()
        _sync_folder(self.folder)

    def _write(self, line: bytes) -> None:
        """All of ``line``, or nothing of it."""
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, self._bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._bytes += written

    def _rotate(self) -> None:
        os.fsync(self._file)
        os.close(self._file)
        self._open(self.folder / _name(_number(self._path) + 1))
        for old in sorted(_files(self.folder))[:-MAX_FILES]:
            old.unlink(missing_ok=True)


class Verified(NamedTuple):
    """What `verify` found in order.

    Attributes:
        first: number of the first line that is kept.
        head: of the last.
    """

    first: int
    head: Head


def verify(folder: Path) -> Verified:
    """Follow the chain of the trail in ``folder / audit`` from its oldest file to its end.

    Raises:
        Refused: a line was altered, removed or put in; says which.
        InputError: there is no trail, or it cannot be read.
    """
    files = sorted(_files(folder / FOLDER))
    if not files:
        raise InputError(f"there is no audit trail in {folder}; give the folder of a node")
    first, head = 0, None
    try:
        for path in files:
            for line in path.read_bytes().split(b"\n")[:-1]:
                head = _next(line, head, path)
                first = first or head.number
    except OSError as exc:
        raise InputError(f"cannot read the audit trail: {in_one_line(exc)}; make it readable") from None
    return Verified(first, head or Head())


def _next(line: bytes, before: Head | None, path: Path) -> Head:
    try:
        entry = msgspec.json.decode(line, type=dict[str, Any])
        number, previous = int(entry["number"]), str(entry["previous"])
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError):
        after = f"after number {before.number}" if before else "at its beginning"
        raise Refused(f"the audit trail is broken: {path.name} has a line that is none, {after}") from None
    if before is not None and (previous != before.digest or number != before.number + 1):
        raise Refused(
            f"the audit trail is broken: {path.name} does not go on from number {before.number} to {number}; a line "
            "was altered, removed or put in"
        )
    return Head(number, hashlib.sha256(line).hexdigest())


def _mended(path: Path) -> tuple[int, Head]:
    """Cut off an incomplete last line of ``path``; how many bytes that were, and the head."""
    if not path.exists():
        return 0, Head()
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
    lines = data[:whole].split(b"\n")[:-1]
    if lines:
        return len(data) - whole, _next(lines[-1], None, path)
    before = path.with_name(_name(_number(path) - 1))
    return len(data) - whole, _mended(before)[1] if before.exists() else Head()


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob("audit-*.jsonl")


def _name(number: int) -> str:
    return f"audit-{number:08d}.jsonl"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("audit-"))


def _written(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
