"""Compiled models (OpenVINO's blobs, TensorRT's engines), kept in a folder of the user's for a faster start.

One file a model, backend version, device and configuration: what the engine exports right after it compiled, before
any image was seen, so there is nothing of a patient in it. The file ends with ``sha256(key ‖ blob)``: one that is
damaged, cut short or moved to another model's name is not used, the model is compiled anew and the file replaced.

This protects against accidents. Against people it is the folder that protects: it is made for its owner alone (mode
0700), and one that others may write to is refused, or that lies where anybody may replace it, since an engine trusts
what it imports. The golden cases are replayed on an imported model like on any other. The folder may be emptied at any
time.

The blob is mapped, not read, and its pages are given back once imported: OpenVINO has packed the weights by then. What
is mapped is a copy without a name in the same folder: where another program cuts a mapped file short, the next look at
its pages ends the process with a bus error. Where no copy can be made, the blob stays in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.ownership import anybody_may_replace_in, is_foreign, parents_of
from medfm_compress.runtime.regular_file import open_regular

_DIGEST_BYTES = 32
_PIECE_BYTES = 1 << 20
_MAX_BYTES = 8 << 30  # twice the largest bundle
_FORMAT = 3  # of the file; part of the key

_log = logging.getLogger("medfm_compress.runtime")


class Place(NamedTuple):
    """Where one compiled model is kept, and the key that it must have been made for."""

    path: Path
    key: bytes


def place(
    folder: str, backend: str, digests: Sequence[str], version: str, configuration: Mapping[str, object], device: object
) -> Place:
    """The place of a model in ``folder``, which is made where it is missing.

    Args:
        folder: the user's cache folder.
        backend: engine that compiled it.
        digests: hex sha256 of each of the model's files.
        version: of the engine, with its build.
        configuration: what the model is compiled with.
        device: what it is compiled for, as a value that JSON can hold.

    Raises:
        InputError: the folder cannot be made, or others may write to it or replace it.
    """
    _check_folder(Path(folder))
    determinants = (_FORMAT, backend, tuple(digests), version, dict(configuration), device)
    key = hashlib.sha256(msgspec.json.encode(determinants, order="sorted")).digest()
    return Place(Path(folder) / f"{backend}-{key.hex()[:32]}.blob", key)


class Blob(NamedTuple):
    """A compiled model that is what was stored.

    Attributes:
        memory: the model, then 32 bytes of digest.
        is_mapped: whether its pages can be read from a file again, which nobody else can reach.
    """

    memory: mmap.mmap
    is_mapped: bool


def load(kept: Place) -> Blob | None:
    """The blob at ``kept``; None where there is none or it is not what was stored."""
    try:
        with open_regular(kept.path, getattr(os, "O_NOFOLLOW", 0)) as file:
            status = os.fstat(file.fileno())
            if not _DIGEST_BYTES < status.st_size <= _MAX_BYTES or is_foreign(status):
                return None
            blob = _copied(file, status.st_size, kept.path.parent)
    except (OSError, ValueError):  # ValueError: it was cut in this moment
        return None
    with memoryview(blob.memory) as view:
        whole = _digest(kept.key, view[:-_DIGEST_BYTES]) == view[-_DIGEST_BYTES:]
    if whole:
        return blob
    blob.memory.close()
    _log.warning("the compiled model %s is damaged; compiling again", kept.path.name)
    return None


def _copied(file: BinaryIO, size: int, folder: Path) -> Blob:
    """``size`` bytes of ``file``, in a file without a name, or in memory where ``folder`` takes none."""
    try:
        with tempfile.TemporaryFile(dir=folder) as copy:
            shutil.copyfileobj(file, copy, _PIECE_BYTES)
            copy.flush()
            return Blob(mmap.mmap(copy.fileno(), size, access=mmap.ACCESS_COPY), is_mapped=True)
    except OSError:
        memory = mmap.mmap(-1, size)
        file.seek(0)
        memory.write(file.read(size))
        return Blob(memory, is_mapped=False)


def blob_bytes(blob: Blob) -> int:
    """Size of the model in what `load` gave."""
    return len(blob.memory) - _DIGEST_BYTES


def release(blob: Blob) -> None:
    """Give the pages back; what is needed again is read from the file again."""
    if blob.is_mapped:
        with contextlib.suppress(AttributeError, OSError, ValueError):
            blob.memory.madvise(mmap.MADV_DONTNEED)


def store(kept: Place, blob: bytes) -> None:
    """Write ``blob`` for its owner alone, whole or not at all; a failure costs the next start time, so it is logged."""
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=kept.path.parent, prefix=".compiled-", suffix=".partial")  # mode 0600
        with open(handle, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(blob)
            file.write(_digest(kept.key, blob))
        Path(name).replace(kept.path)
    except OSError as exc:
        _log.warning("the compiled model is not kept: %s", in_one_line(exc))
    finally:
        if name:
            with contextlib.suppress(OSError):
                Path(name).unlink()


def _digest(key: bytes, blob: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(key)
    digest.update(blob)
    return digest.digest()


def _check_folder(folder: Path) -> None:
    _check_parents(folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, ValueError) as exc:  # ValueError: no folder can have that name
        reason = in_one_line(exc)
        raise InputError(
            f"cannot use cache folder {in_one_line(folder)}: {reason}; give one that can be written"
        ) from None
    if is_foreign(status):
        raise InputError(
            f"others may write to cache folder {folder}, and a compiled model is trusted like a program; give one of "
            "your own (chmod 700)"
        )


def _check_parents(folder: Path) -> None:
    """Refuse a folder above ``folder`` in which anybody may put another one into its place (``/tmp`` is sticky)."""
    try:
        open_to_all = [
            parent for parent in parents_of(folder) if parent.is_dir() and anybody_may_replace_in(parent.stat())
        ]
    except (OSError, ValueError, RuntimeError):  # making the folder says what is wrong with its path
        return
    if open_to_all:
        raise InputError(
            f"others may write to {in_one_line(open_to_all[0])}, where cache folder {in_one_line(folder)} lies, and a "
            "compiled model is trusted like a program; give one within a folder of your own (chmod 700)"
        )
