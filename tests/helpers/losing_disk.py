"""A disk that forgets what was not synced, and one that is full: both in place of the device folder's own.

`LosingDisk` does everything at once in a real folder, so that bundles can be opened there, and keeps a log. After any
number of operations, `crashes` lays out every folder that a power failure at that moment may leave behind: each
operation that no sync has made durable has happened, has not, or (a write) has happened by half, independently of all
others.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from medfm_compress.runtime.device.disk import Disk, NewFile


class Step(NamedTuple):
    """One operation: ``write`` adds ``data`` to file number ``file``; names are relative to the root."""

    kind: str
    path: str
    target: str = ""
    file: int = -1
    data: bytes = b""


class Crash(Exception):
    """The power fails."""


class LosingDisk(Disk):
    """A real disk with a log, which stops before operation number ``stop``."""

    def __init__(self, root: Path, stop: int = 10**9) -> None:
        self.root, self.stop, self.log, self.files = root, stop, [], 0
        self.start = _snapshot(root)

    def add(self, kind: str, path: Path, **details: object) -> None:
        if len(self.log) >= self.stop:
            raise Crash
        self.log.append(Step(kind, str(path.relative_to(self.root)), **details))  # type: ignore[arg-type]

    def make_folder(self, path: Path) -> None:
        self.add("folder", path)
        super().make_folder(path)

    def create(self, path: Path) -> NewFile:
        self.add("create", path, file=self.files)
        self.files += 1
        return _LosingFile(self, path, self.files - 1)

    def rename(self, source: Path, target: Path) -> None:
        self.add("rename", source, target=str(target.relative_to(self.root)))
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        if not os.path.lexists(path):
            raise FileNotFoundError(path)
        self.add("unlink", path)
        super().unlink(path)

    def sync_folder(self, path: Path) -> None:
        self.add("sync-folder", path)

    def crashes(self, target: Path) -> Iterator[Path]:
        """Lay out at ``target``, one after the other, every folder that a crash now may leave."""
        open_steps = self._lost_by_a_crash()
        choices = [(("whole", "lost", "half") if step.kind == "write" else ("whole", "lost")) for step in open_steps]
        for choice in itertools.product(*choices):
            kept = dict(zip(map(id, open_steps), choice, strict=True))
            _lay_out(
                target,
                self.start,
                [(step, kept.get(id(step), "whole")) for step in self.log if not step.kind.startswith("sync")],
            )
            yield target

    def _lost_by_a_crash(self) -> list[Step]:
        """The operations that no sync has made durable."""
        waiting: list[Step] = []
        for step in self.log:
            if step.kind == "sync-file":
                waiting = [other for other in waiting if other.kind != "write" or other.file != step.file]
            elif step.kind == "sync-folder":
                waiting = [
                    other for other in waiting if other.kind == "write" or str(Path(other.path).parent) != step.path
                ]
            else:
                waiting.append(step)
        return waiting


class _LosingFile:
    def __init__(self, disk: LosingDisk, path: Path, number: int) -> None:
        self.disk, self.path, self.number = disk, path, number
        self.file = Disk.create(disk, path)

    def write(self, data: bytes) -> None:
        self.disk.add("write", self.path, file=self.number, data=bytes(data))
        self.file.write(data)

    def sync(self) -> None:
        self.disk.add("sync-file", self.path, file=self.number)

    def close(self) -> None:
        self.file.close()


class FullDisk(Disk):
    """A disk on which operation number ``stop`` and all later ones that need room fail."""

    def __init__(self, stop: int, code: int = errno.ENOSPC) -> None:
        self.stop, self.code, self.count = stop, code, 0

    def _use(self) -> None:
        self.count += 1
        if self.count > self.stop:
            raise OSError(self.code, os.strerror(self.code))

    def make_folder(self, path: Path) -> None:
        self._use()
        super().make_folder(path)

    def create(self, path: Path) -> NewFile:
        self._use()
        return _FullFile(self, Disk.create(self, path))

    def rename(self, source: Path, target: Path) -> None:
        self._use()
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        self._use()


class _FullFile:
    def __init__(self, disk: FullDisk, file: NewFile) -> None:
        self.disk, self.file = disk, file

    def write(self, data: bytes) -> None:
        try:
            self.disk._use()
        except OSError:
            self.file.write(data[: len(data) // 2])
            raise
        self.file.write(data)

    def sync(self) -> None:
        self.disk._use()

    def close(self) -> None:
        self.file.close()


def _snapshot(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }


def _lay_out(target: Path, start: dict[str, bytes | None], steps: list[tuple[Step, str]]) -> None:
    """Write what is on the disk: contents belong to files, and names lead to files."""
    contents: dict[int, bytes] = {-1 - i: data for i, data in enumerate(start.values()) if data is not None}
    names = {name: -1 - i for i, (name, data) in enumerate(start.items()) if data is not None}
    folders = {name for name, data in start.items() if data is None}
    for step, kept in steps:
        if step.kind == "create":
            contents[step.file] = b""
        if kept == "lost":
            continue
        if step.kind == "write":
            contents[step.file] += step.data[: len(step.data) // 2] if kept == "half" else step.data
        elif step.kind == "folder":
            folders.add(step.path)
        elif step.kind == "create":
            names[step.path] = step.file
        elif step.kind == "rename":
            number = _file_of(steps, step, names)
            names[step.target] = number
            names.pop(step.path, None)
        elif step.kind == "unlink":
            names.pop(step.path, None)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for folder in sorted(folders):
        (target / folder).mkdir(exist_ok=True)
    for name, number in names.items():
        path = target / name
        if path.parent.is_dir():
            path.write_bytes(contents[number])


def _file_of(steps: list[tuple[Step, str]], rename: Step, names: dict[str, int]) -> int:
    """The file that a rename moved: the one created last under its old name, even if that name itself was lost."""
    created = None
    for step, _ in steps:
        if step is rename:
            break
        if step.kind == "create" and step.path == rename.path:
            created = step.file
    return names[rename.path] if created is None else created
