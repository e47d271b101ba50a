"""Trials kept on disk as they are made, so that an interrupted measurement of sensitivity goes on where it was."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

import msgspec

from medfm_compress.compress.pruning.sensitivity import SensitivityPoint
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import decode, encode


class _Kept(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of the file."""

    fingerprint: str
    trials: dict[str, tuple[SensitivityPoint, ...]]


class SensitivityCache(MutableMapping[str, tuple[SensitivityPoint, ...]]):
    """Unit name → trials; every new entry is written at once."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        """Go on with the file at ``path`` if it has this ``fingerprint`` of all that the trials depend on."""
        self._path, self._fingerprint = path, fingerprint
        try:
            kept = decode(path.read_bytes(), _Kept, source=str(path))
        except (OSError, InputError):
            kept = _Kept(fingerprint="", trials={})
        self._trials = dict(kept.trials) if kept.fingerprint == fingerprint else {}

    def __getitem__(self, name: str) -> tuple[SensitivityPoint, ...]:
        return self._trials[name]

    def __setitem__(self, name: str, trials: tuple[SensitivityPoint, ...]) -> None:
        self._trials[name] = trials
        self._write()

    def __delitem__(self, name: str) -> None:
        del self._trials[name]
        self._write()

    def __iter__(self) -> Iterator[str]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, encode(_Kept(fingerprint=self._fingerprint, trials=self._trials)))
