"""A ZIP archive that can be laid out in exactly one way, so that a single altered byte anywhere is found.

Members are stored, not deflated: the bytes that zlib writes differ between its builds, weights hardly shrink, and a
stored archive cannot be a zip bomb. Order, time stamps and attributes are fixed, so equal members give equal bytes.
The reader computes what every header must be and compares; contents are covered by CRC-32 (here) and sha256 (in
`bundle`). Any ZIP tool can list and extract the file. Layout: PKWARE APPNOTE 6.3.10, 4.3.7, 4.3.12 and 4.3.16.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from medfm_compress.runtime.atomic_write import replacing
from medfm_compress.runtime.errors import BundleRefused, InputError, in_one_line, refusing
from medfm_compress.runtime.regular_file import open_regular

MAX_MEMBERS = 256
MAX_NAME_CHARACTERS = 200
MAX_ARCHIVE_BYTES = 2**32 - 2  # without ZIP64 every size and offset has 32 bits
CHUNK_BYTES = 1 << 20

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION = 20
_UNIX_REGULAR = (3 << 8) | _VERSION  # "made by": Unix, so that the mode below means something
_MODE = 0o100644 << 16
_MIDNIGHT, _NEW_YEAR_1980 = 0, 0x21
# One or more path segments that start with a letter or digit: no "..", no root, no drive, no back slash.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*(/[A-Za-z0-9][A-Za-z0-9_.+-]*)*")


class Entry(NamedTuple):
    """One member: its name, size in bytes, CRC-32, and where its local header starts."""

    name: str
    size: int
    crc: int
    offset: int

    @property
    def start(self) -> int:
        """Offset of the first content byte."""
        return self.offset + _LOCAL.size + len(self.name)

    def local_header(self) -> bytes:
        """The only local file header (4.3.7) that this member may have."""
        fields = (_VERSION, 0, 0, _MIDNIGHT, _NEW_YEAR_1980, self.crc, self.size, self.size, len(self.name), 0)
        return _LOCAL.pack(b"PK\3\4", *fields) + self.name.encode("ascii")

    def central_header(self) -> bytes:
        """The only central directory header (4.3.12) that this member may have."""
        fields = (_UNIX_REGULAR, _VERSION, 0, 0, _MIDNIGHT, _NEW_YEAR_1980, self.crc, self.size, self.size)
        tail = (len(self.name), 0, 0, 0, 0, _MODE, self.offset)
        return _CENTRAL.pack(b"PK\1\2", *fields, *tail) + self.name.encode("ascii")


def is_member_name(name: str) -> bool:
    """Whether ``name`` is a safe relative path of plain ASCII segments."""
    return len(name) <= MAX_NAME_CHARACTERS and _NAME.fullmatch(name) is not None


def write_archive(path: str | Path, members: Mapping[str, bytes]) -> None:
    """Write ``members`` to ``path`` in the order given, atomically.

    Raises:
        InputError: an unusable member name, too many members, more than 4 GiB, or a folder that cannot be written.
    """
    bad = [name for name in members if not is_member_name(name)]
    if bad:
        raise InputError(f"member name {bad[0]!r} is not a relative path of letters, digits and . _ + -")
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{len(members)} members; a bundle holds at most {MAX_MEMBERS}")
    entries = _place(members)
    tail = _directory(entries)
    total = tail[0] + len(tail[1])
    if total > MAX_ARCHIVE_BYTES:
        raise InputError(f"the bundle would have {total} bytes; at most {MAX_ARCHIVE_BYTES} fit: ship fewer variants")
    with replacing(path) as temporary, temporary.open("wb") as file:
        for entry in entries:
            file.write(entry.local_header())
            file.write(members[entry.name])
        file.write(tail[1])
        file.flush()
        os.fsync(file.fileno())


def read_directory(path: Path) -> tuple[Entry, ...]:
    """Entries of the archive at ``path``, in file order, every header byte of the file checked.

    Raises:
        BundleRefused: anything but the one layout that `write_archive` gives.
        InputError: the file cannot be read.
    """
    with open_archive(path) as file:
        size = file.seek(0, os.SEEK_END)
        count, length, start = _read_end(file, size, path)
        file.seek(start)
        entries = tuple(_parse_central(file.read(length), count, path))
        _check_layout(file, entries, (start, length), path)
    return entries


def read_member(path: Path, entry: Entry) -> bytes:
    """Content of one member, its CRC-32 checked."""
    content = read_content(path, entry)
    if zlib.crc32(content) != entry.crc:
        raise BundleRefused(f"{path.name}: {entry.name} is damaged; copy the bundle again")
    return content


def read_content(path: Path, entry: Entry) -> bytes:
    """Content of one member, only its length checked: for a caller that knows a better checksum than CRC-32."""
    with open_archive(path) as file:
        file.seek(entry.start)
        content = file.read(entry.size)
    if len(content) != entry.size:
        raise BundleRefused(f"{path.name}: {entry.name} is damaged; copy the bundle again")
    return content


def chunks(file: BinaryIO, entry: Entry) -> Iterator[bytes]:
    """Content of one member in pieces of at most 1 MiB."""
    file.seek(entry.start)
    left = entry.size
    while left > 0:
        chunk = file.read(min(CHUNK_BYTES, left))
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


@contextmanager
def open_archive(path: Path) -> Iterator[BinaryIO]:
    """Open the regular file at ``path`` for reading inside the block.

    Raises:
        InputError: it cannot be opened, or reading fails somewhere inside the block.
        BundleRefused: anything else goes wrong inside the block with what was read, e.g. because the file changes.
    """
    try:
        file = open_regular(path)
    except (OSError, ValueError) as exc:
        reason = in_one_line(exc)
        raise InputError(f"cannot read bundle {in_one_line(path)}: {reason}; give the path of a .medfm file") from None
    with file, refusing(BundleRefused, f"{in_one_line(path.name)} cannot be read"):
        try:
            yield file
        except OSError as exc:
            reason = in_one_line(exc)
            raise InputError(f"cannot read bundle {in_one_line(path)}: {reason}; check the disk") from exc


def _place(members: Mapping[str, bytes]) -> list[Entry]:
    entries, offset = [], 0
    for name, content in members.items():
        entry = Entry(name, len(content), zlib.crc32(content), offset)
        entries.append(entry)
        offset = entry.start + entry.size
        if offset > MAX_ARCHIVE_BYTES:
            raise InputError(f"the bundle grows beyond {MAX_ARCHIVE_BYTES} bytes at {name}: ship fewer variants")
    return entries


def _directory(entries: list[Entry] | tuple[Entry, ...]) -> tuple[int, bytes]:
    """Offset of the central directory, and its bytes with the end record (4.3.16)."""
    offset = entries[-1].start + entries[-1].size if entries else 0
    central = b"".join(entry.central_header() for entry in entries)
    count = len(entries)
    return offset, central + _END.pack(b"PK\5\6", 0, 0, count, count, len(central), offset, 0)


def _read_end(file: BinaryIO, size: int, path: Path) -> tuple[int, int, int]:
    """Member count, and length and offset of the central directory."""
    if not _END.size <= size <= MAX_ARCHIVE_BYTES:
        raise BundleRefused(f"{path.name} has {size} bytes, which no bundle has; copy it again")
    file.seek(size - _END.size)
    magic, _, _, count, _, length, start, _ = _END.unpack(file.read(_END.size))
    if magic != b"PK\5\6" or start + length + _END.size != size:
        raise BundleRefused(f"{path.name} is not a bundle, or is cut short; give a .medfm file, or copy it again")
    if not 0 < count <= MAX_MEMBERS or length > count * (_CENTRAL.size + MAX_NAME_CHARACTERS):
        raise BundleRefused(f"{path.name} declares {count} members; a bundle has 1 to {MAX_MEMBERS}")
    return count, length, start


def _parse_central(directory: bytes, count: int, path: Path) -> Iterator[Entry]:
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise BundleRefused(f"{path.name}: its table of contents is damaged; copy the bundle again")
        fields = _CENTRAL.unpack_from(directory, position)
        position += _CENTRAL.size
        name = directory[position : position + fields[10]].decode("latin-1")
        position += fields[10]
        if not is_member_name(name):
            raise BundleRefused(f"{path.name}: member name {name[:80]!r} is not a plain relative path")
        yield Entry(name, fields[9], fields[7], fields[16])


def _check_layout(file: BinaryIO, entries: tuple[Entry, ...], tail: tuple[int, int], path: Path) -> None:
    if len({entry.name for entry in entries}) != len(entries):
        raise BundleRefused(f"{path.name}: a member stands in it twice")
    damaged = f"{path.name} was altered, damaged, or not written by medfm-compress; fetch the bundle again"
    offset = 0
    for entry in entries:
        file.seek(offset)
        header = entry.local_header()
        if entry.offset != offset or file.read(len(header)) != header:
            raise BundleRefused(damaged)
        offset = entry.start + entry.size
    file.seek(tail[0])
    expected = _directory(entries)
    if (offset, file.read(len(expected[1]) + 1)) != expected:
        raise BundleRefused(damaged)
