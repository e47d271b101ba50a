"""Reading of regular files only: no device that never ends, no pipe that waits for a writer, no folder.

A file is looked at before it is opened, since opening alone has effects on some devices, and once more through its
descriptor, since it may have been exchanged in between; it is opened without waiting.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from medfm_compress.runtime.errors import InputError, in_one_line

_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def open_regular(path: str | Path, flags: int = 0) -> BinaryIO:
    """Open the regular file at ``path`` for reading; ``flags`` of `os.open` may be added.

    Raises:
        OSError: there is none, it is no regular file, or it cannot be opened.
        ValueError: no file can have that name.
    """
    _check_kind(Path(path).stat(follow_symlinks=not flags & getattr(os, "O_NOFOLLOW", 0)))
    handle = os.open(path, _FLAGS | flags)
    try:
        _check_kind(os.fstat(handle))
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | Path, limit: int, what: str) -> bytes:
    """Content of the regular file at ``path``, of at most ``limit`` bytes; ``what`` is what to call it in an error.

    Raises:
        InputError: it cannot be read, is larger, or changes while it is read.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise InputError(f"{what} {in_one_line(path)} has {size} bytes, more than the {limit} that are read")
            content = file.read(size + 1)
    except InputError:
        raise
    except (OSError, ValueError) as exc:
        raise InputError(f"cannot read {what} {in_one_line(path)}: {in_one_line(exc)}") from None
    if len(content) != size:
        raise InputError(f"{what} {in_one_line(path)} changes while it is read; try again")
    return content


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFLNK: "a link"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device, pipe or socket")
        raise OSError(f"it is {kind}, not a regular file")
