"""Why a library could not write a file: few say so, and on a full disk each raises something else.

PyTorch names a position, OpenVINO an ``iostream error``, ONNX Runtime the file, NumPy a count of bytes.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from medfm_compress.runtime.errors import MedfmError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WORDS = {  # of libraries that remove what they wrote, so that another attempt would succeed
    "No space left on device": errno.ENOSPC,
    "Disk quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "iostream error": errno.ENOSPC,  # C++ knows no reason; of a file that was begun it is this one
}
_TRIED_BYTES = 2**20


def write_failure(exc: BaseException | None, file: Path) -> str:
    """Why ``file`` could not be written, in words; empty where ``exc`` is of another kind, or says its reason itself.

    Args:
        exc: what a library raised while it wrote.
        file: that it wrote, which is given up: more is written to it, to see whether there is room.
    """
    if not _hides_its_reason(exc):
        return ""
    said = next((code for words, code in _WORDS.items() if words in str(exc)), None)
    return lack_of_room(file) if said is None else os.strerror(said)


def _hides_its_reason(exc: BaseException | None) -> bool:
    """A library's own class, or one of the two that extensions raise for anything."""
    kind = type(exc)
    if issubclass(kind, MedfmError):
        return False
    return kind is RuntimeError or (kind is OSError and exc.errno is None) or kind.__module__ != "builtins"  # type: ignore[union-attr]


def lack_of_room(file: Path) -> str:
    """Why no more can be written to ``file``, in words; empty where it can. What is tried is left in it."""
    try:
        with file.open("ab") as more:
            more.write(bytes(_TRIED_BYTES))
            more.flush()
            os.fsync(more.fileno())
    except OSError as exc:
        return os.strerror(exc.errno) if exc.errno in NO_ROOM else ""
    return ""
