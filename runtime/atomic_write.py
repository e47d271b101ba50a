"""Atomic writes: a file is either whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medfm_compress.runtime.errors import InputError

_NAMED = 40  # characters of a file's name in that of its temporary one, which may not be longer than a name can be


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it there on success, remove it on any error or interrupt.

    Raises:
        InputError: the folder cannot be created or written (read-only, disk full).
    """
    import tempfile  # writing is rare on a device, and this is a tenth of what the engine takes to import

    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:_NAMED]}.", suffix=".partial")
    except OSError as exc:
        raise InputError(f"cannot write {path}: {exc.strerror}; choose a folder that exists and is writable") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as exc:
        raise InputError(f"cannot write {path}: {exc.strerror}; free space or choose another folder") from exc
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through :func:`replacing`, flushed to the disk before the rename."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
