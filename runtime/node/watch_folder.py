"""A folder that others put DICOM files into: each is copied to the spool, durably, and removed then.

A file is complete once neither its size nor its time has changed for ``settle_s``. A node that ends between the two
steps takes it again, which adds nothing. What is no image stays where it is, and is spoken of once;
what cannot be read or removed is tried again, less and less often.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.node.config import WatchConfig
from medfm_compress.runtime.node.spool.spool import Spool, SpoolFull
from medfm_compress.runtime.node.take_file import Intake, NotTaken, take
from medfm_compress.runtime.regular_file import open_regular

SENDER = "watch"
MAX_FILES = 100_000  # looked at in one round
_MAX_BYTES = 4096 * 10**6
_CHUNK_BYTES = 1024**2
_Signature = tuple[int, int, int]  # inode, size, time of change
_FIRST_WAIT_S, _LONGEST_WAIT_S = 5.0, 600.0
_log = logging.getLogger(__name__)


class _Left(NamedTuple):
    """A file that is left there, for ever or for a while."""

    signature: _Signature
    until: float
    wait_s: float = 0.0


class WatchFolder:
    """Takes files from a folder, in a thread of its own."""

    def __init__(self, config: WatchConfig, spool: Spool, audit: Any, metrics: Any) -> None:
        self._config, self._audit, self._metrics, self._spool = config, audit, metrics, spool
        self._intake = Intake(spool, SENDER, config.priority, _MAX_BYTES)
        self._folder = Path(config.folder)
        self._seen: dict[Path, tuple[_Signature, float]] = {}  # since when it is as it is
        self._left: dict[Path, _Left] = {}
        self._is_too_many = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch-folder", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether it watches."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to watch.

        Raises:
            InputError: there is no such folder, or files in it cannot be removed.
        """
        if not self._folder.is_dir() or not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise InputError(
                f"watch.folder {in_one_line(self._folder)} is no folder that can be read and written; "
                "make it, and let the node's user write to it"
            )
        self._thread.start()

    def stop(self, within_s: float = 10.0) -> None:
        """End after the file that is under way."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(within_s)

    def look(self) -> int:
        """Take every file that is complete; return how many were taken."""
        taken, seen, left = 0, {}, {}
        for path, signature in (files := list(_files(self._folder))):
            if self._stopping.is_set():
                return taken
            now, known = time.monotonic(), self._left.get(path)
            before, since = self._seen.get(path, (signature, now))
            since = since if before == signature else now
            if known is not None and known.signature == signature:
                left[path] = known
            if now - since < self._config.settle_s or (path in left and now < left[path].until):
                seen[path] = (signature, since)
                continue
            try:
                taken += self._take(path, signature)
                left.pop(path, None)
            except NotTaken as exc:
                left[path] = _Left(signature, math.inf)
                self._tell(exc.code, in_one_line(exc))
            except SpoolFull:  # what comes after it is not forgotten
                self._seen, self._left = self._seen | seen | {path: (signature, since)}, self._left | left
                return taken
            except OSError as exc:  # changed, removed, not readable or not removable
                seen[path] = (signature, since)
                left[path] = self._put_off(known, signature, exc)
        self._seen, self._left = seen, left
        self._tell_of_number(len(files))
        return taken

    def _run(self) -> None:
        while not self._stopping.wait(self._config.every_s):
            try:
                self.look()
            except Exception as exc:  # noqa: BLE001 - the next round may succeed
                _log.error("the watched folder could not be looked through: %s", type(exc).__name__)

    def _take(self, path: Path, signature: _Signature) -> int:
        with open_regular(path, getattr(os, "O_NOFOLLOW", 0)) as file:
            taken = take(_unchanged(file, signature), self._intake)
        if _signature(path.lstat()) == signature:  # else another has its name by now
            path.unlink()
        self._metrics.count("received", way=SENDER)
        self._audit.record("received", way=SENDER, instance=taken.instance_id, repeated=taken.repeated)
        return 1

    def _put_off(self, before: _Left | None, signature: _Signature, error: OSError) -> _Left:
        """Until when a file is left alone that could not be taken; twice as long every time it is as it was."""
        if before is None or before.signature != signature:
            _log.warning("a file in the watched folder cannot be taken: %s; trying again", in_one_line(error))
            wait = _FIRST_WAIT_S
        else:
            wait = min(2 * before.wait_s, _LONGEST_WAIT_S)
        return _Left(signature, time.monotonic() + wait, wait)

    def _tell_of_number(self, count: int) -> None:
        """Files beyond `MAX_FILES` are not reached: somebody has to take those away that are left there."""
        is_too_many = count >= MAX_FILES
        if is_too_many and not self._is_too_many:
            _log.error(
                "the watched folder holds more than %d files, and not all are reached; move away those that are left "
                "there",
                MAX_FILES,
            )
        self._is_too_many = is_too_many

    def _tell(self, code: str, message: str) -> None:
        _log.warning("a file in the watched folder is left there: %s", message)
        self._metrics.count("refused", reason=code)
        self._audit.record("refused", way=SENDER, reason=code)


def _files(folder: Path) -> Iterator[tuple[Path, _Signature]]:
    """Regular files, without hidden ones and without following links."""
    count = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            try:
                status = Path(parent, name).lstat()
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield Path(parent, name), _signature(status)
                count += 1
                if count >= MAX_FILES:
                    return


def _signature(status: os.stat_result) -> _Signature:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _unchanged(file: BinaryIO, signature: _Signature) -> Iterator[bytes]:
    """All of a file that does not change meanwhile."""
    while piece := file.read(_CHUNK_BYTES):
        yield piece
    if _signature(os.fstat(file.fileno())) != signature:
        raise OSError("it has changed")
