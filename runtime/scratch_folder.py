"""`scratch_folder`: a temporary folder, and one sentence where it has no room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medfm_compress.runtime.errors import MedfmError, NoRoom, NotWritten
from medfm_compress.runtime.write_failure import NO_ROOM, lack_of_room, write_failure


@contextmanager
def scratch_folder(prefix: str = "medfm-") -> Iterator[Path]:
    """Yield a new folder in the system's temporary one; it is removed at the end.

    Raises:
        NoRoom: there is none, whatever library met that.
    """
    import tempfile

    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        folder = Path(name)
        try:
            yield folder
        except Exception as exc:
            if reason := _reason(exc, folder):
                advice = "make room there, or name another folder in TMPDIR"
                raise NoRoom(f"cannot write to the temporary folder {folder.parent}: {reason}; {advice}") from exc
            raise


def _reason(exc: Exception, folder: Path) -> str:
    """Why ``folder`` could not be written to; empty where ``exc``, or what it was made of, is of another kind."""
    if isinstance(exc, NotWritten) and folder in exc.path.parents:
        return exc.reason
    cause = exc.__cause__ if isinstance(exc, MedfmError) else exc
    if isinstance(cause, OSError) and cause.errno in NO_ROOM and cause.filename is not None:
        return os.strerror(cause.errno) if folder in Path(str(cause.filename)).parents else ""
    if isinstance(cause, OSError) and cause.errno in NO_ROOM:  # writing tells no name: perhaps another folder's
        return lack_of_room(_longest(folder))
    return write_failure(cause, _longest(folder))


def _longest(folder: Path) -> Path:
    """The longest file in ``folder``, which was growing; a new one where there is none."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return max(files, key=lambda path: path.stat().st_size, default=folder / "room")
