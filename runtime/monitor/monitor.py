"""`Monitor`: counts what an `ActiveEngine` predicts and refuses, in a file of the device folder for each bundle.

    FOLDER/monitor/MANIFEST_SHA256.json    of the eight bundles that ran last

Outcomes are kept in memory and written after every 16th and at the end; a power failure loses those between. What
cannot be written is dropped after a while: counting never keeps a device from predicting.
"""

from __future__ import annotations

import logging
import random
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from medfm_compress.runtime.device.disk import Disk, discard, writing
from medfm_compress.runtime.device.lock import exclusive
from medfm_compress.runtime.device.sealed_json import read_sealed, write_sealed
from medfm_compress.runtime.device.state import Installed
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import MedfmError, Refused, in_one_line
from medfm_compress.runtime.monitor.record import SCHEMA_VERSION, Record, Seen, Watched, add_replay, count, this_week
from medfm_compress.runtime.monitor.reference import (
    NoReference,
    Reference,
    input_features,
    output_features,
    read_reference,
)
from medfm_compress.runtime.prediction import NetworkInput, Prediction

FOLDER = "monitor"
LOCK = "lock"
EVERY = 16
MAX_RECORDS = 8
_MAX_WAITING = 1000
_REMEMBERED = 256

_log = logging.getLogger("medfm_compress.runtime")


class Monitor:
    """An observer of an `ActiveEngine`; several processes may count into one folder."""

    def __init__(
        self, folder: str | Path, *, disk: Disk | None = None, random_source: random.Random | None = None
    ) -> None:
        """Count into the device folder ``folder``; ``random_source`` draws the u of the drift test."""
        self.folder = Path(folder) / FOLDER
        self._disk = disk or Disk()
        self._random = random_source or random.SystemRandom()
        self._waiting: list[Seen] = []
        self._examinations: deque[bytes] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()

    def opened(self, engine: Engine, bundle: Installed) -> None:
        """``engine`` predicts from now on."""
        self.flush()  # of the bundle before
        self._spec = engine.manifest.image_spec
        reference = _reference_of(engine)
        features = reference.features(engine.variant.name) if isinstance(reference, Reference) else {}
        self._empty = Record(
            manifest_sha256=bundle.manifest_sha256,
            release=bundle.release,
            variant=engine.variant.name,
            no_reference=reference.reason if isinstance(reference, NoReference) else "",
            watched={
                name: Watched(reference=known, counts=(0,) * len(known.counts)) for name, known in features.items()
            },
        )

    def predicted(self, _: object, prediction: Prediction, seen: NetworkInput) -> None:
        """Count a prediction."""
        values = input_features(seen, self._spec) | output_features(prediction, seen)
        watched = self._empty.watched
        self._add(
            Seen(
                bins={name: watched[name].reference.bin_of(value) for name, value in values.items() if name in watched},
                repeated=self._is_repeated(seen.examination),
                called=tuple(name for name, called in prediction.findings.items() if called),
                flags=prediction.flags,
            )
        )

    def refused(self, _: object, error: Exception) -> None:
        """Count a refusal, by the kind of error alone: its words may name a file."""
        self._add(Seen(refusal=type(error).__name__))

    def replayed(self, error: float | None) -> None:
        """Record a replay of all golden cases; None where one gave another result."""
        with self._lock:
            self._change(lambda record: add_replay(record, error, this_week()))

    def _is_repeated(self, examination: bytes | None) -> bool:
        """Whether one of the last images was of this examination: several of one say what one says."""
        if examination is None:
            return False
        with self._lock:
            repeated = examination in self._examinations
            self._examinations.append(examination)
        return repeated

    def flush(self) -> None:
        """Write what is kept in memory."""
        with self._lock:
            self._flush()

    def _add(self, seen: Seen) -> None:
        with self._lock:
            self._waiting.append(seen)
            if len(self._waiting) % EVERY == 0:
                self._flush()
            del self._waiting[:-_MAX_WAITING]

    def _flush(self) -> None:
        if self._waiting:
            self._change(lambda record: record)

    def _change(self, change: Callable[[Record], Record]) -> None:
        """Add what waits to the record on the disk, and ``change`` it; a failure is logged, and it goes on waiting."""
        path = self.folder / f"{self._empty.manifest_sha256}.json"
        try:
            with writing(self.folder):
                self.folder.mkdir(exist_ok=True)
            with exclusive(self.folder / LOCK):
                record = self._read(path)
                week = this_week()
                for seen in self._waiting:
                    record = count(record, seen, week, self._random.random())
                write_sealed(self._disk, path, change(record))
                self._waiting.clear()
                self._remove_oldest(path)
        except MedfmError as exc:
            _log.warning("the monitor cannot count: %s", in_one_line(exc))

    def _read(self, path: Path) -> Record:
        """The record so far; a new one where there is none, it is damaged, or another variant or reference counts."""
        try:
            record = read_sealed(self._disk, path, Record, SCHEMA_VERSION)
        except Refused as exc:
            _log.warning("the monitor begins anew: %s", in_one_line(exc))
            return self._empty
        if record is None or record.variant != self._empty.variant or _features(record) != _features(self._empty):
            return self._empty
        return record

    def _remove_oldest(self, newest: Path) -> None:
        with suppress(OSError):
            records = [path for path in self.folder.glob("*.json") if path != newest]
            records.sort(key=lambda path: path.stat().st_mtime)
            for path in records[: max(0, len(records) + 1 - MAX_RECORDS)]:
                discard(self._disk, path)


def read_record(folder: str | Path, bundle: Installed) -> Record | None:
    """What was counted with ``bundle`` in the device folder; None where nothing was.

    Raises:
        Refused: the file is damaged.
    """
    return read_sealed(Disk(), Path(folder) / FOLDER / f"{bundle.manifest_sha256}.json", Record, SCHEMA_VERSION)


def _reference_of(engine: Engine) -> Reference | NoReference:
    try:
        return read_reference(engine.bundle, engine.variant)
    except MedfmError as exc:  # the bundle predicts all the same
        return NoReference(reason=f"the reference in the bundle cannot be used: {in_one_line(exc)}")


def _features(record: Record) -> dict[str, object]:
    return {name: watched.reference for name, watched in record.watched.items()}
