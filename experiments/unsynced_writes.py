"""What a power failure may leave of the files that a process wrote: from a log of its system calls (strace).

Model (POSIX; stricter than any journaling file system): the content of a file is on the disk after fsync or fdatasync
of it; a name that was made, replaced or removed after fsync of its folder; a call makes durable what had returned when
it began. Until then each write, each name and each shortening is lost or kept on its own, a write also by half; only a
rename is never half done. See Pillai and others, "All file systems are not created equal", OSDI 2014.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

CALLS = "openat,close,write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,ftruncate,mkdir,mkdirat"
_LINE = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)", re.DOTALL)
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$", re.DOTALL)
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)", re.DOTALL)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_AT_FDCWD = "AT_FDCWD, "


class Call(NamedTuple):
    """A system call that succeeded; ``began`` and ``ended`` are numbers of lines of the log."""

    name: str
    arguments: str
    result: int
    began: int
    ended: int

    def strings(self) -> list[bytes]:
        """Its arguments in quotes."""
        return [bytes.fromhex(text.replace("\\x", "")) for text in _STRING.findall(self.arguments)]


class Operation(NamedTuple):
    """A change of the files under a folder.

    Attributes:
        kind: ``write``, ``truncate``, ``name``, ``rename`` or ``unlink``.
        file: number of the file that it concerns.
        durable: line after which it cannot be lost any more; None for never.
    """

    kind: str
    file: int
    began: int
    ended: int
    path: str = ""
    source: str = ""
    offset: int = 0
    data: bytes = b""
    durable: int | None = None


class Mark(NamedTuple):
    """A line that the process wrote to the file of marks."""

    text: str
    ended: int


def read_calls(log: Path) -> Iterator[Call]:
    """Calls of a log of ``strace -f -xx``, in the order in which they ended."""
    begun: dict[str, tuple[str, int]] = {}
    with log.open() as lines:
        for number, line in enumerate(lines):
            text = line.rstrip("\n")
            if unfinished := _UNFINISHED.match(text):
                begun[unfinished[1]] = (unfinished[3], number)
            elif resumed := _RESUMED.match(text):
                arguments, began = begun.pop(resumed[1], ("", number))
                if int(resumed[4]) >= 0:
                    yield Call(resumed[2], arguments + resumed[3], int(resumed[4]), began, number)
            elif (whole := _LINE.match(text)) and int(whole[4]) >= 0:
                yield Call(whole[2], whole[3], int(whole[4]), number, number)


class Recording:
    """All that a process did to the files under ``folder``, and the marks that it wrote meanwhile."""

    def __init__(self, log: Path, folder: Path, marks: Path) -> None:
        self.folder, self.operations, self.marks = str(folder), list[Operation](), list[Mark]()
        self._marks, self._files = str(marks), 0
        self._names: dict[str, int] = {}
        self._opened: dict[int, tuple[str, int, int]] = {}  # descriptor → path, file, position
        self.lines = 0
        for call in read_calls(log):
            self.lines = max(self.lines, call.ended + 1)
            self._add(call)

    def _add(self, call: Call) -> None:
        if call.name == "openat":
            self._open(call)
        elif call.name == "close":
            self._opened.pop(int(call.arguments), None)
        elif call.name in ("write", "pwrite64", "fsync", "fdatasync", "ftruncate"):
            self._on_descriptor(call)
        elif call.name.startswith(("rename", "unlink")):
            self._on_names(call)

    def _open(self, call: Call) -> None:
        path = call.strings()[0].decode()
        if not path.startswith(self.folder) and path != self._marks:
            self._opened.pop(call.result, None)
            return
        if not call.arguments.startswith(_AT_FDCWD):
            raise ValueError("a path beside a folder's descriptor is not followed")
        if path == self._marks:
            self._opened[call.result] = (path, 0, 0)
            return
        if path not in self._names and "O_DIRECTORY" not in call.arguments and not Path(path).is_dir():
            self._files += 1
            self._names[path] = self._files
            self.operations.append(Operation("name", self._files, call.began, call.ended, path))
        self._opened[call.result] = (path, self._names.get(path, 0), 0)
        if "O_TRUNC" in call.arguments and self._names.get(path):
            self.operations.append(Operation("truncate", self._names[path], call.began, call.ended, path))

    def _on_descriptor(self, call: Call) -> None:
        descriptor = int(call.arguments.partition(",")[0])
        if descriptor not in self._opened:
            return
        path, file, position = self._opened[descriptor]
        if call.name in ("fsync", "fdatasync"):
            self._sync(call, path, file)
        elif path == self._marks:
            self.marks += [Mark(text, call.ended) for text in call.strings()[0].decode().split()]
        elif call.name == "ftruncate":
            size = int(call.arguments.rpartition(",")[2])
            self.operations.append(Operation("truncate", file, call.began, call.ended, path, offset=size))
        else:
            offset = int(call.arguments.rpartition(",")[2]) if call.name == "pwrite64" else position
            data = call.strings()[0][: call.result]
            self.operations.append(Operation("write", file, call.began, call.ended, path, offset=offset, data=data))
            if call.name == "write":
                self._opened[descriptor] = (path, file, position + call.result)

    def _on_names(self, call: Call) -> None:
        paths = [text.decode() for text in call.strings()]
        if not paths[-1].startswith(self.folder):
            return
        file = self._names.pop(paths[0], 0)
        if call.name.startswith("rename"):
            self._names[paths[1]] = file
            self.operations.append(Operation("rename", file, call.began, call.ended, paths[1], paths[0]))
        else:
            self.operations.append(Operation("unlink", file, call.began, call.ended, paths[0]))

    def _sync(self, call: Call, path: str, file: int) -> None:
        for index, operation in enumerate(self.operations):
            if operation.durable is not None or operation.ended >= call.began:
                continue
            concerns = (
                operation.file == file if operation.kind in ("write", "truncate") else _folder(operation.path) == path
            )
            if concerns:
                self.operations[index] = operation._replace(durable=call.ended)


def lay_out(recording: Recording, line: int, target: Path, generator: random.Random) -> int:
    """Write into ``target`` what may be left where the power fails at ``line`` of the log.

    Returns:
        How many operations were lost, or half done.
    """
    names: dict[str, int] = {}
    contents: dict[int, bytearray] = {}
    lost = 0
    chance = generator.choice((0.1, 0.5, 0.9, 1.0))  # of a loss
    for operation in recording.operations:
        if operation.began > line:
            break
        is_safe = operation.durable is not None and operation.durable <= line
        if not is_safe and generator.random() < chance:
            lost += 1
            if operation.kind != "write" or generator.random() < 0.7:
                continue
            half = operation.data[: generator.randrange(len(operation.data) + 1)]
            _apply(operation._replace(data=half), names, contents)
        else:
            _apply(operation, names, contents)
    for path, file in names.items():
        place = target / Path(path).relative_to(recording.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(contents.get(file, b""))
    return lost


def _apply(operation: Operation, names: dict[str, int], contents: dict[int, bytearray]) -> None:
    content = contents.setdefault(operation.file, bytearray())
    if operation.kind == "write":
        content.extend(bytes(max(0, operation.offset - len(content))))
        content[operation.offset : operation.offset + len(operation.data)] = operation.data
    elif operation.kind == "truncate":
        content.extend(bytes(max(0, operation.offset - len(content))))
        del content[operation.offset :]
    elif operation.kind == "unlink":
        if names.get(operation.path) == operation.file:
            del names[operation.path]
    else:
        if names.get(operation.source) == operation.file:
            del names[operation.source]
        names[operation.path] = operation.file


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
