"""`Disk`: everything that a device folder does to its disk, so that tests can put one that loses writes in its place.

What is durable when (POSIX): the content of a file after `sync` of that file; a name that was made, replaced or removed
after `sync_folder` of its folder. Before that each may be lost on its own. See Pillai and others, "All file systems are
not created equal", OSDI 2014.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.regular_file import open_regular

PARTIAL = ".partial"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


class NewFile(Protocol):
    """A file that did not exist before."""

    def write(self, data: bytes) -> None:
        """Append ``data``."""

    def sync(self) -> None:
        """Return when the content is on the disk."""

    def close(self) -> None:
        """Give the descriptor back."""


class _OpenedFile:
    def __init__(self, path: Path) -> None:
        self._handle = os.open(path, _NEW, 0o666)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._handle, view) :]

    def sync(self) -> None:
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


class Disk:
    """The real one. Every method raises OSError as the system does."""

    def make_folder(self, path: Path) -> None:
        """A folder at ``path``, if there is none."""
        path.mkdir(exist_ok=True)

    def create(self, path: Path) -> NewFile:
        """A new file; FileExistsError where there is anything of that name."""
        return _OpenedFile(path)

    def rename(self, source: Path, target: Path) -> None:
        """Put ``source`` in the place of ``target``, whatever file is there."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def sync_folder(self, path: Path) -> None:
        """Return when the names in the folder are on the disk."""
        if os.name == "nt":  # no folder can be opened there; NTFS journals names
            return
        handle = os.open(path, _FOLDER)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self, path: Path, limit: int) -> bytes:
        """The first ``limit`` bytes of a regular file."""
        with open_regular(path) as file:
            return file.read(limit)

    def names(self, folder: Path) -> list[str]:
        """Of everything in ``folder``, sorted; empty where there is no such folder."""
        try:
            return sorted(os.listdir(folder))  # noqa: PTH208 -- names, also of what cannot be looked at
        except FileNotFoundError:
            return []


def put(disk: Disk, path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file so that after any interruption there is the old one or the new one, whole, under its name.

    Raises:
        InputError: the disk is full, read-only or broken; nothing has changed then.
    """
    partial = path.with_name(path.name + PARTIAL)
    with writing(path):
        discard(disk, partial)  # of a writer that was interrupted
        try:
            _write(disk.create(partial), pieces)
            disk.rename(partial, path)
        except BaseException:
            with suppress(OSError):
                discard(disk, partial)
            raise
        disk.sync_folder(path.parent)


def discard(disk: Disk, path: Path) -> None:
    """Remove a file, if it is there."""
    with suppress(FileNotFoundError):
        disk.unlink(path)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses to write, as one sentence.

    Raises:
        InputError: any OSError of the block.
    """
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"cannot write {in_one_line(path)}: {in_one_line(exc)}; the device runs what it ran; free space, or "
            "make the folder writable"
        ) from exc


def _write(file: NewFile, pieces: Iterable[bytes]) -> None:
    try:
        for piece in pieces:
            file.write(piece)
        file.sync()
    finally:
        file.close()
