"""libtiff's errors, heard where they arise.

Pillow turns libtiff's warnings off and leaves its errors as they are: libtiff writes them to standard error, where no
filter of Python's reaches, and some of them (a check sum of the pixels that differs) stop neither libtiff nor Pillow.
So its own handler is set while a TIFF is read, and put back when the last thread that reads one is done. It counts for
the thread in which libtiff works, and prints nothing: the words may quote the file.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)  # module, format, va_list


class TiffErrors:
    """How many errors libtiff has reported in this thread since the block began."""

    count = 0


_in_thread = threading.local()


def _hear(*_: object) -> None:
    errors: TiffErrors | None = getattr(_in_thread, "errors", None)
    if errors is not None:
        errors.count += 1


class _Handler:
    """How many threads are inside, and what to put back when the last one leaves."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._ours = _HANDLER(_hear)  # libtiff keeps a pointer to it
        self._theirs: int | None = None

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._theirs = _set(ctypes.cast(self._ours, ctypes.c_void_p).value)
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _set(self._theirs)


_HANDLERS = _Handler()


@contextmanager
def tiff_errors() -> Iterator[TiffErrors]:
    """Count libtiff's errors of this thread, and keep them from standard error.

    Where Pillow's libtiff cannot be reached (it is linked in without its names, as on Windows), nothing is counted.
    """
    before, errors = getattr(_in_thread, "errors", None), TiffErrors()
    _in_thread.errors = errors
    _HANDLERS.enter()
    try:
        yield errors
    finally:
        _HANDLERS.leave()
        _in_thread.errors = before


def _set(handler: int | None) -> int | None:
    """Make ``handler`` libtiff's, and give the one before."""
    with suppress(ImportError, OSError, AttributeError):
        from PIL import _imaging

        # A symbol is looked for in the extension module and in the libraries that it was linked with.
        function: Any = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
        before: int | None = function(handler)
        return before
    return None
