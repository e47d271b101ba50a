"""Rows of a ``.npy`` file, read when they are asked for.

Not mapped into memory: where another program cuts a mapped file short, the next look at its pages ends the process with
a bus error, which nothing can catch. A read that comes too short is an error like any other.
"""

from __future__ import annotations

import os
import threading
import weakref
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.regular_file import open_regular

_MOST_BYTES = 1 << 26  # of one read where the system cannot read into memory that is there
_FORMATS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is by columns, and dtype of the array whose header ``file`` begins with.

    Raises:
        ValueError: it is no header, or of a version that no array of plain numbers needs.
    """
    version = np.lib.format.read_magic(file)
    if version not in _FORMATS:
        raise ValueError(f"the array is of version {version} of the format")
    shape, in_columns, dtype = _FORMATS[version](file)
    return shape, in_columns, dtype


class NpyRows:
    """An array in a file, indexed along its first axis by a slice, a number or an array of numbers.

    Attributes:
        shape: of the whole array.
        dtype: of its values.
    """

    def __init__(self, path: Path, channels: int | None = None) -> None:
        """Open it and read its header.

        Args:
            path: of the file.
            channels: length of the second axis as it is to be seen; where the file has 1, it is repeated.

        Raises:
            OSError: it cannot be opened.
            ValueError: it is no whole ``.npy`` file of plain numbers in C order, with at least one axis, or has another
                number of channels than 1 and ``channels``.
        """
        self._path = path
        with open_regular(path) as file:
            self.shape, in_columns, self.dtype = read_npy_header(file)
            if in_columns or self.dtype.hasobject or not self.shape:
                raise ValueError(f"{path} is no array of plain numbers by rows")
            self._start = file.tell()
            self._row_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize
            if os.fstat(file.fileno()).st_size != self._start + len(self) * self._row_bytes:
                raise ValueError(f"{path} is not whole")
            self._stored = self.shape
            if channels is not None:
                if self.shape[1:2] not in ((1,), (channels,)):
                    raise ValueError(f"{path} has not 1 or {channels} channels")
                self.shape = (self.shape[0], channels, *self.shape[2:])
            self._handle = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._handle)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: int | slice | NDArray[np.integer]) -> NDArray[Any]:
        """A copy of the rows; raises InputError where the file became shorter."""
        rows = np.arange(len(self))[index]
        if rows.ndim == 0:
            row: NDArray[Any] = self[rows.reshape(1)][0]
            return row
        out = np.empty((len(rows), *self._stored[1:]), self.dtype)
        target = out.reshape(-1).view(np.uint8).data
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of runs of rows that follow one another
        for start, stop in zip(starts, np.append(starts, len(rows))[1:], strict=True):
            self._read(int(rows[start]), target[start * self._row_bytes : stop * self._row_bytes])
        return out if self._stored == self.shape else np.repeat(out, self.shape[1], axis=1)

    def _read(self, row: int, target: memoryview) -> None:
        at, done = self._start + row * self._row_bytes, 0
        while done < len(target):
            part = self._read_at(at + done, target[done:])
            if not part:
                raise InputError(
                    f"{self._path} became shorter while it was read; nothing else may write to it: delete it and run "
                    "the command again"
                )
            done += part

    def _read_at(self, at: int, target: memoryview) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._handle, [target], at)
        with self._lock:
            os.lseek(self._handle, at, os.SEEK_SET)
            part = os.read(self._handle, min(len(target), _MOST_BYTES))
        target[: len(part)] = part
        return len(part)
