"""Atomic writes: a file is either whole or absent."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medfm_compress.runtime.errors import InputError, MedfmError

_NAMED = 40  # characters of a file's name in that of its temporary one, which may not be longer than a name can be
_WORDS = {  # of libraries that remove what they wrote; the last is of C++, which knows no reason
    "No space left": errno.ENOSPC,
    "quota exceeded": errno.EDQUOT,
    "File too large": errno.EFBIG,
    "iostream error": errno.EIO,
}
_TRIED_BYTES = 2**20  # what a disk without room for a library's file has no room for either


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
        with library_writes(path.parent):
            yield temporary
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as exc:
        other = exc.filename is not None and str(exc.filename) not in (name, str(path.parent))  # a temporary file
        at_fault = f"cannot use {exc.filename}" if other else f"cannot write {path}"
        raise InputError(f"{at_fault}: {exc.strerror or exc}; free space or choose another folder") from exc
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def library_writes(folder: Path) -> Iterator[None]:
    """What a library raises while it writes to ``folder``, as what it comes from where that is the disk.

    Few of them say so: PyTorch, safetensors, NumPy, OpenVINO and ONNX Runtime raise errors of their own.

    Raises:
        OSError: there is no room, e.g. ``ENOSPC``; its file is ``folder``.
    """
    try:
        yield
    except MedfmError:
        raise
    except Exception as exc:
        if getattr(exc, "errno", None) is None and (code := _reason(folder, str(exc))) is not None:
            raise OSError(code, os.strerror(code), str(folder)) from exc
        raise


def _reason(folder: Path, words: str) -> int | None:
    """Why nothing could be written to ``folder``, where that is so: what it says, or another attempt shows."""
    import tempfile

    said = next((code for word, code in _WORDS.items() if word in words), None)
    if said is not None:
        return said

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIED_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        return exc.errno
    return None


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
