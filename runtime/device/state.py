"""`DeviceState`: which bundle a device runs, which one it would go back to, and what it has accepted so far.

It stands in two files, ``state-0.json`` and ``state-1.json``, written in turn: state number n replaces number n - 2, so
the one before it is never touched. Each holds a digest over what it says. The state is the valid one with the larger
number; where that file was damaged, the device is as it was one change before.

State 0, without any bundle, is on the disk before the first bundle is. So the files of states n and n - 1 are always
there together, whatever was interrupted, and one that is absent was lost or removed: it counts as damaged.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from medfm_compress.runtime.device.disk import PARTIAL, Disk
from medfm_compress.runtime.device.sealed_json import read_sealed, write_sealed
from medfm_compress.runtime.errors import Refused, in_one_line

SCHEMA_VERSION = 1
STATE_FILES = ("state-0.json", "state-1.json")
BUNDLES = "bundles"
BUNDLE_FILE = re.compile(rf"[0-9a-f]{{64}}\.medfm({re.escape(PARTIAL)})?")
"""Name of what an installation writes into the folder of bundles."""
MAX_ACCEPTED = 64
MAX_EVENTS = 64


class Installed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bundle that lies in the folder.

    Attributes:
        name: of the bundle.
        sha256: of its file, which is called after it.
        manifest_sha256: of its manifest's bytes, which list the hash of everything else; looked at at every start.
        model_digest: of its model.
        release: counts up from 1; 0 where the bundle has none.
        bytes: of its file.
    """

    name: str
    sha256: str
    manifest_sha256: str
    model_digest: str
    release: int
    bytes: int

    @property
    def file(self) -> str:
        """Its file's name."""
        return f"{self.sha256}.medfm"

    def __str__(self) -> str:
        return f"{in_one_line(self.name)} (release {self.release}, {self.sha256[:12]})"


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The time between activation and commit.

    Attributes:
        length: N: so many predictions commit the bundle, so many refusals bring the one before back.
        predicted: so far.
        refused: so far.
        starts: of engines since the last outcome was reported.
    """

    length: int
    predicted: int = 0
    refused: int = 0
    starts: int = 0


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One change, for whoever has to tell what ran when.

    Attributes:
        number: of the state that it led to; the order of events is that of their numbers, whatever the clock showed.
        date: ISO 8601, UTC, by the device's clock.
        what: installed, activated, committed, rolled-back or self-test-failed.
        bundle: its file's sha256.
        release: of that bundle.
        reason: of a failure or a return.
    """

    number: int
    date: str
    what: str
    bundle: str
    release: int
    reason: str = ""


class DeviceState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a device knows of its bundles.

    Attributes:
        schema_version: of this file.
        number: counts the changes.
        active: the bundle that runs.
        previous: the one that ran before, which comes back where the active one fails.
        candidate: the one that was installed and not activated.
        backend: of the last activation; None is any.
        threads: of the last activation; None is the physical cores.
        trial: of the active bundle; None once it is committed.
        minimum_release: the highest release that was ever committed here.
        accepted: sha256 of the manifests that were committed here, the latest last, at most 64.
        events: the latest 64.
    """

    schema_version: int = SCHEMA_VERSION
    number: int = 0
    active: Installed | None = None
    previous: Installed | None = None
    candidate: Installed | None = None
    backend: str | None = None
    threads: int | None = None
    trial: Trial | None = None
    minimum_release: int = 0
    accepted: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()

    @property
    def files(self) -> frozenset[str]:
        """Names of the bundle files that it speaks of."""
        return frozenset(bundle.file for bundle in (self.active, self.previous, self.candidate) if bundle)


class StoredState(NamedTuple):
    """The state as found: ``damaged`` names files that could not be used, or are not there and should be."""

    state: DeviceState
    damaged: tuple[str, ...] = ()


def read_state(disk: Disk, folder: Path) -> StoredState | None:
    """The state of ``folder``; None where nothing was ever installed.

    Raises:
        Refused: there are state files or bundles, and no state file can be used.
        InputError: one was written by a newer version.
    """
    states: dict[str, DeviceState] = {}
    damaged: list[str] = []
    for name in STATE_FILES:
        try:
            state = read_sealed(disk, folder / name, DeviceState, SCHEMA_VERSION)
        except Refused:
            damaged.append(name)
        else:
            states |= {name: state} if state else {}
    if states:
        latest = max(states.values(), key=lambda state: state.number)
        found = {name: state.number for name, state in states.items()}
        lost = [name for name, number in _numbers(latest).items() if found.get(name) != number]
        return StoredState(latest, tuple(name for name in STATE_FILES if name in (*damaged, *lost)))
    if damaged or _holds_bundles(disk, folder):
        raise Refused(
            f"the state of the device folder {in_one_line(folder)} is damaged or gone ({', '.join(STATE_FILES)}), so "
            "it is not known which bundle was accepted; restore it from a copy, or install into a new folder"
        )
    return None


def _numbers(latest: DeviceState) -> dict[str, int]:
    """File → number of the state that it should hold, where ``latest`` is the latest."""
    return {_file_of(number): number for number in (latest.number, latest.number - 1) if number >= 0}


def _holds_bundles(disk: Disk, folder: Path) -> bool:
    with suppress(OSError):
        return any(map(BUNDLE_FILE.fullmatch, disk.names(folder / BUNDLES)))
    return False


def _file_of(number: int) -> str:
    return STATE_FILES[number % 2]


def write_state(disk: Disk, folder: Path, state: DeviceState) -> None:
    """Put ``state`` in the place of the one before the last, durably.

    Raises:
        InputError: it cannot be written; the state is the one before then.
    """
    write_sealed(disk, folder / _file_of(state.number), state)
