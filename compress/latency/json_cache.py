"""`JsonCache`: what was computed before, as one JSON file under the fingerprint of all that it depends on.

    {"fingerprint": …, "entries": {key: value, …}}

A file that is missing, damaged, of another type or with another fingerprint holds nothing: what is in it is computed
again. Every new entry is written at once and atomically, so that an interrupted job goes on where it was; entries that
another process wrote meanwhile stay.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import convert, decode, encode

Value = TypeVar("Value")


class _Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    fingerprint: str
    entries: dict[str, Any]


class JsonCache(MutableMapping[str, Value], Generic[Value]):
    """Key → value, kept in a file."""

    def __init__(self, path: Path, fingerprint: str, kind: type[Value]) -> None:
        """Go on with the file at ``path`` where it has this ``fingerprint``.

        Args:
            path: JSON file; its folder is made with the first entry.
            fingerprint: of what all entries depend on.
            kind: type of a value; others are refused, and then the whole file is.
        """
        self._path, self._fingerprint, self._kind = path, fingerprint, kind
        self._entries: dict[str, Value] = self._read()

    def __getitem__(self, key: str) -> Value:
        return self._entries[key]

    def __setitem__(self, key: str, value: Value) -> None:
        """Keep ``value`` and write the file.

        Raises:
            InputError: the file cannot be written; the value is kept in memory all the same.
        """
        self._entries = {**self._read(), **self._entries, key: value}
        self._write()

    def __delitem__(self, key: str) -> None:
        del self._entries[key]
        self._write()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def _read(self) -> dict[str, Value]:
        try:
            content = decode(self._path.read_bytes(), _Content, source=str(self._path))
            if content.fingerprint != self._fingerprint:
                return {}
            return convert(content.entries, dict[str, self._kind], source=str(self._path))  # type: ignore[name-defined]
        except (OSError, InputError):
            return {}

    def _write(self) -> None:
        write_atomically(self._path, encode(_Content(fingerprint=self._fingerprint, entries=self._entries)))
