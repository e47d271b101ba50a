"""One process at a time changes a device folder; the system gives the lock back however a process ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medfm_compress.runtime.device.disk import writing
from medfm_compress.runtime.errors import InputError, in_one_line

PATIENCE_S = 10.0
_PAUSE_S = 0.02


@contextmanager
def exclusive(
    path: Path, patience_s: float = PATIENCE_S, doing: str = "is changing the device folder"
) -> Iterator[None]:
    """Hold the lock file at ``path`` inside the block; it is made where it is missing, and never removed.

    Args:
        path: of the lock file; what it locks is its folder.
        patience_s: how long another process may still hold it.
        doing: what a process does that holds it, before the folder's name.

    Raises:
        InputError: another process holds it for longer, or it cannot be opened.
    """
    with writing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        _wait(handle, path, time.monotonic() + patience_s, doing)
        yield
    finally:
        os.close(handle)  # and with it the lock


def _wait(handle: int, path: Path, until: float, doing: str) -> None:
    while not _try(handle):
        if time.monotonic() >= until:
            raise InputError(f"another process {doing} {in_one_line(path.parent)}; try again")
        time.sleep(_PAUSE_S)


if sys.platform == "win32":
    import msvcrt

    def _try(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
