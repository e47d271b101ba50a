"""The journal of finished tiles: what was answered survives whatever ends the process.

A header of one line of JSON (what the answers depend on), then one record of fixed size a tile, in the order of the
tiles, each with a check sum. What was written half is cut off when work goes on; another header starts anew.

    record = status (1 byte) · probabilities (float32 a finding) · map (uint8, of a segmentation) · CRC-32 (4 bytes)
"""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.regular_file import open_regular
from medfm_compress.runtime.strict_json import digest

PREDICTED, UNREAD, NOT_RELIABLE = 0, 1, 2
_PART = 4 << 20


class TileAnswer(NamedTuple):
    """What was answered of one tile.

    Attributes:
        status: `PREDICTED`, `UNREAD` or `NOT_RELIABLE`.
        scores: float32 ``[findings]``; NaN where there is none.
        map: uint8 ``[findings, down, across]`` of a segmentation, probabilities × 255; else empty.
    """

    status: int
    scores: NDArray[np.float32]
    map: NDArray[np.uint8]


class Journal:
    """A journal on the disk, open for reading and for adding; ``done`` says how many tiles it holds."""

    def __init__(self, path: Path, depends_on: object, findings: int, map_shape: tuple[int, int] | None) -> None:
        """Open ``path``, or begin it anew where it is of something else.

        Raises:
            InputError: it cannot be written.
        """
        self.path, self._findings, self._map_shape = path, findings, map_shape
        self._map_bytes = findings * map_shape[0] * map_shape[1] if map_shape else 0
        self._size = 1 + 4 * findings + self._map_bytes + 4
        header = f"medfm slide journal 2 {self._size} {digest(depends_on)}\n".encode()
        self._start = len(header)
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            self.done = self._whole_records(header)
            os.ftruncate(self._handle, self._start + self.done * self._size)
        except OSError as exc:
            raise InputError(f"cannot write {path}: {exc.strerror}; choose another folder, or make room") from None

    def _whole_records(self, header: bytes) -> int:
        """How many records there are from the first to the last before one that is damaged."""
        if os.pread(self._handle, self._start, 0) != header:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, header, 0)
            return 0
        count = (os.fstat(self._handle).st_size - self._start) // self._size
        return next((number for number in range(count) if self._record(number) is None), count)

    def _record(self, number: int) -> bytes | None:
        data = os.pread(self._handle, self._size, self._start + number * self._size)
        whole = len(data) == self._size and zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
        return data if whole else None

    def add(self, answer: TileAnswer) -> None:
        """Add the next tile's answer.

        Raises:
            InputError: the disk is full, or the file cannot be written.
        """
        body = bytes([answer.status]) + answer.scores.astype("<f4").tobytes() + answer.map.tobytes()
        record = body + zlib.crc32(body).to_bytes(4, "little")
        try:
            written = os.pwrite(self._handle, record, self._start + self.done * self._size)
        except OSError as exc:
            raise InputError(f"cannot write {self.path}: {exc.strerror}; make room, what is done is kept") from None
        if written != self._size:
            raise InputError(f"cannot write {self.path}: the disk is full; make room, what is done is kept")
        self.done += 1

    def read(self, number: int) -> TileAnswer:
        """The answer of a tile that is done.

        Raises:
            InputError: the journal was changed meanwhile.
        """
        data = self._record(number)
        if data is None:
            raise InputError(f"{self.path} was changed by others; delete it and begin anew")
        ends = 1 + 4 * self._findings
        scores = np.frombuffer(data, "<f4", self._findings, 1)
        maps = np.frombuffer(data, np.uint8, self._map_bytes, ends)
        shape = (self._findings, *self._map_shape) if self._map_shape else (0,)
        return TileAnswer(data[0], scores, maps.reshape(shape))

    def close(self) -> None:
        """Give back the file."""
        os.close(self._handle)

    def remove(self) -> None:
        """Close it and take it away: everything that it was for is written."""
        self.close()
        self.path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in parts."""
    state = hashlib.sha256()
    with open_regular(path) as file:
        while part := file.read(_PART):
            state.update(part)
    return state.hexdigest()
