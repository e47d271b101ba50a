"""Strict JSON for every file type of the project: unknown keys are refused, errors are one sentence."""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

import msgspec

from medfm_compress.runtime.errors import InputError, in_one_line, printable
from medfm_compress.runtime.schema_errors import explained

T = TypeVar("T")


def decode(
    data: bytes | str, kind: type[T], *, source: str, error: type[Exception] = InputError, unique: bool = False
) -> T:
    """Decode JSON ``data`` into ``kind``.

    Args:
        data: UTF-8 JSON.
        kind: a ``msgspec.Struct`` type.
        source: what to call the data in an error, usually a file name.
        error: exception type to raise.
        unique: a key that an object names twice is refused too, at the price of a second reading; else the last counts.

    Raises:
        error: the data is not JSON, lacks a key, has an unknown key or a value outside its range.
    """
    try:
        decoded = msgspec.json.decode(data, type=kind)
        if unique:
            import json  # 2 ms of every start

            json.loads(data, object_pairs_hook=_named_once)
        return decoded
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as exc:
        raise error(f"{source}: {in_one_line(exc)}") from None


def _named_once(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"it names {name!r} twice; leave one")
        seen.add(name)


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
