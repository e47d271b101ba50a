"""Atomic writes: a file is either whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medfm_compress.runtime.errors import InputError, NoRoom, NotWritten
from medfm_compress.runtime.write_failure import NO_ROOM, write_failure

_NAMED = 40  # characters of a file's name in that of its temporary one, which may not be longer than a name can be


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it there on success, remove it on any error or interrupt.

    Raises:
        InputError: the folder cannot be created or written (read-only, disk full), whoever tried to.
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
    except NotWritten as exc:
        if exc.path != temporary:
            raise
        raise NotWritten(path, exc.reason) from exc
    except NoRoom:
        raise
    except OSError as exc:
        raise _of_the_disk(exc, path, temporary) from exc
    except Exception as exc:
        if reason := write_failure(exc, temporary):
            raise NotWritten(path, reason) from exc
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _of_the_disk(exc: OSError, path: Path, temporary: Path) -> InputError:
    """What is said of ``path``, or of another file that was met while it was written, e.g. one that was read."""
    name = os.fsdecode(exc.filename) if isinstance(exc.filename, str | bytes | os.PathLike) else None
    if name in {None, str(temporary), str(path.parent)}:
        return NotWritten(path, exc.strerror or write_failure(exc, temporary) or str(exc))
    advice = "; make room for it" if exc.errno in NO_ROOM else ""
    return InputError(f"cannot use {name}: {exc.strerror or exc}{advice}")


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
