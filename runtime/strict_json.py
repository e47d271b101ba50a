"""Strict JSON for every file type of the project: unknown keys are refused, errors are one sentence."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

from medfm_compress.runtime.errors import InputError, in_one_line, printable
from medfm_compress.runtime.schema_errors import explained

T = TypeVar("T")


def decode(data: bytes | str, kind: type[T], *, source: str, error: type[Exception] = InputError) -> T:
    """Decode JSON ``data`` into ``kind``.

    Args:
        data: UTF-8 JSON.
        kind: a ``msgspec.Struct`` type.
        source: what to call the data in an error, usually a file name.
        error: exception type to raise.

    Raises:
        error: the data is not JSON, lacks a key, has an unknown key or a value outside its range.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as exc:
        raise error(f"{source}: {in_one_line(exc)}") from None


def convert(value: Any, kind: type[T], *, source: str, error: type[Exception] = InputError) -> T:
    """Convert plain Python data (for example parsed YAML) into ``kind``; raises like :func:`decode`."""
    try:
        return msgspec.convert(value, type=kind)
    except msgspec.MsgspecError as exc:
        raise error(f"{source}: {printable(explained(value, kind, str(exc)))}") from None
    except (ValueError, OverflowError, RecursionError) as exc:
        raise error(f"{source}: {in_one_line(exc)}") from None


def encode(value: Any) -> bytes:
    """Human-readable JSON (two-space indent, trailing newline), byte-identical for equal values."""
    return msgspec.json.format(msgspec.json.encode(value, order="deterministic"), indent=2) + b"\n"


def digest(value: Any) -> str:
    """Hex sha256 of the canonical JSON of ``value`` (keys sorted, no white space)."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()
