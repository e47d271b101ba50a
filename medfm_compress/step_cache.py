"""Which steps of a job are done: a finished step whose inputs have not changed is not repeated."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.strict_json import decode, digest, encode


class Done(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Record of one finished step: the key of its inputs, and how long its last run took."""

    key: str
    seconds: float


class StepCache:
    """Runs steps in order and remembers them in ``folder/steps``."""

    def __init__(self, folder: Path, progress: Callable[[str], None]) -> None:
        self._folder, self._progress = folder, progress
        self._keys: list[str] = []

    def step(self, name: str, output: str, settings: Any, make: Callable[[Path], object]) -> Path:
        """Make ``folder/output`` unless a run with the same settings, after the same steps, already did.

        Args:
            name: of the step.
            output: file or folder that it makes.
            settings: whatever it depends on besides the steps before it; JSON-serialisable.
            make: is called with the output's path; must leave it whole or absent.
        """
        path, record = self._folder / output, self._folder / "steps" / f"{name}.json"
        key = digest([name, settings, self._keys])
        self._keys.append(key)
        if path.exists() and self._key(record) == key:
            self._progress(f"{name}: done before")
            return path
        self._progress(f"{name} …")
        started = time.monotonic()
        make(path)
        seconds = time.monotonic() - started
        write_atomically(record, encode(Done(key=key, seconds=round(seconds, 1))))
        self._progress(f"{name}: {seconds:.0f} s")
        return path

    @staticmethod
    def _key(record: Path) -> str:
        try:
            return decode(record.read_bytes(), Done, source=str(record)).key
        except (OSError, InputError):
            return ""
