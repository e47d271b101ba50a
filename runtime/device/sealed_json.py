"""A JSON file with a digest over what it says: whatever damaged it, it is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from medfm_compress.runtime.device.disk import Disk, put
from medfm_compress.runtime.errors import InputError, Refused
from medfm_compress.runtime.strict_json import decode, digest, encode

T = TypeVar("T")
MAX_BYTES = 1 << 20


class _Sealed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    content: dict[str, Any]
    sha256: str


def write_sealed(disk: Disk, path: Path, value: msgspec.Struct) -> None:
    """Replace the file at ``path``, durably; raises InputError where it cannot be written."""
    content = msgspec.json.decode(msgspec.json.encode(value))
    put(disk, path, [encode(_Sealed(content=content, sha256=digest(content)))])


def read_sealed(disk: Disk, path: Path, kind: type[T], schema_version: int) -> T | None:
    """What `write_sealed` wrote as a ``kind``; None where there is no file.

    Raises:
        Refused: it is damaged, or cannot be read.
        InputError: it is of a later schema than ``schema_version``.
    """
    try:
        raw = disk.read(path, MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise Refused(f"{path.name} cannot be read: {exc}") from None
    sealed = decode(raw, _Sealed, source=path.name, error=Refused)
    if len(raw) > MAX_BYTES or _digest(sealed.content) != sealed.sha256:
        raise Refused(f"{path.name} is damaged")
    schema = sealed.content.get("schema_version")
    if isinstance(schema, int) and schema > schema_version:
        raise InputError(f"{path.name} was written by a newer medfm-compress: upgrade")
    return decode(msgspec.json.encode(sealed.content), kind, source=path.name, error=Refused)


def _digest(content: dict[str, Any]) -> str:
    """Of ``content``; empty where it holds a number that no writer could have written."""
    try:
        return digest(content)
    except (OverflowError, ValueError):
        return ""
