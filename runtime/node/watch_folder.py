"""A folder that others put DICOM files into: each is copied to the spool, durably, and removed then.

A file is complete once neither its size nor its time has changed for ``settle_s``. A node that ends between the two
steps takes it again, which adds nothing. What is no image stays where it is, and is spoken of once.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

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
_log = logging.getLogger(__name__)


class WatchFolder:
    """Takes files from a folder, in a thread of its own."""

    def __init__(self, config: WatchConfig, spool: Spool, audit: Any, metrics: Any) -> None:
        self._config, self._audit, self._metrics, self._spool = config, audit, metrics, spool
        self._intake = Intake(spool, SENDER, config.priority, _MAX_BYTES)
        self._folder = Path(config.folder)
        self._seen: dict[Path, tuple[_Signature, float]] = {}  # since when it is as it is
        self._passed_over: dict[Path, _Signature] = {}
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
        taken, seen, passed_over = 0, {}, {}
        for path, signature in _files(self._folder):
            if self._stopping.is_set():
                return taken
            if self._passed_over.get(path) == signature:
                passed_over[path] = signature
                continue
            now = time.monotonic()
            known, since = self._seen.get(path, (signature, now))
            since = since if known == signature else now
            if now - since < self._config.settle_s:
                seen[path] = (signature, since)
                continue
            try:
                taken += self._take(path, signature)
            except NotTaken as exc:
                passed_over[path] = signature
                self._tell(exc.code, in_one_line(exc))
            except SpoolFull:
                seen[path] = (signature, since)
                break
            except OSError as exc:  # changed, removed or not readable: again when it has settled
                _log.warning("a file in the watched folder cannot be taken: %s", in_one_line(exc))
        self._seen, self._passed_over = seen, passed_over
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
        path.unlink()
        self._metrics.count("received", way=SENDER)
        self._audit.record("received", way=SENDER, instance=taken.instance_id, repeated=taken.repeated)
        return 1

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
