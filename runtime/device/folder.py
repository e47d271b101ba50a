"""`DeviceFolder`: the bundles of one device, and which of them runs.

    FOLDER/state-0.json, state-1.json    the state, written in turn (see `state`); renaming one into place is the switch
    FOLDER/bundles/SHA256.medfm          the active bundle, the previous one, and a candidate
    FOLDER/lock                          held by the process that changes something

A bundle's file is durable under its name before any state names it, and is removed only when neither of the two latest
states does. So whatever is interrupted, lost or full, the state that is read names whole files. A first state, without
any bundle, is durable before any bundle's file is there: bundles without a state are a state that was lost.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.device import transitions
from medfm_compress.runtime.device.disk import Disk, discard, put, writing
from medfm_compress.runtime.device.lock import exclusive
from medfm_compress.runtime.device.options import DeviceOptions
from medfm_compress.runtime.device.self_test import SelfTest, self_test
from medfm_compress.runtime.device.state import (
    BUNDLE_FILE,
    BUNDLES,
    STATE_FILES,
    DeviceState,
    Installed,
    StoredState,
    read_state,
    write_state,
)
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import BundleRefused, InputError, MedfmError, Refused, TrustRefused, in_one_line
from medfm_compress.runtime.trust.store import TrustStore, find_store

LOCK = "lock"

_log = logging.getLogger("medfm_compress.runtime")


class DeviceFolder:
    """The bundles in a folder. Nothing is kept open; several processes may use one folder."""

    def __init__(
        self,
        folder: str | Path,
        *,
        trust: str | Path | TrustStore | None = None,
        allow_unsigned: bool = False,
        options: DeviceOptions | None = None,
        disk: Disk | None = None,
    ) -> None:
        """The device in ``folder``, which `install` makes where it is missing.

        Args:
            folder: on one file system, writable for whoever installs.
            trust: store of trusted keys, asked whenever a bundle is installed, activated or opened; see `Engine`.
            allow_unsigned: let in what no trusted key signed, see `Engine`.
            options: of self-test and trial.
            disk: what the folder is on.
        """
        self.folder = Path(folder)
        self.options = options or DeviceOptions()
        self.trust, self.allow_unsigned = trust, allow_unsigned
        self.disk = disk or Disk()

    @property
    def bundles(self) -> Path:
        """Where the bundles lie."""
        return self.folder / BUNDLES

    def read(self) -> StoredState:
        """The state, and which of its files are damaged; nothing is written.

        Raises:
            Refused: both files of the state are damaged or lost.
            InputError: there is no such folder, or nothing was ever installed there.
        """
        stored = read_state(self.disk, self.folder) if self.folder.is_dir() else None
        if stored is None:
            raise InputError(
                f"{in_one_line(self.folder)} {_what_is_there(self.folder)}; correct the path, or install a bundle there"
            )
        return stored

    @property
    def state(self) -> DeviceState:
        """The state; raises like `read`."""
        stored = self.read()
        for name in stored.damaged:
            _log.warning("%s in the device folder is damaged or lost; the device is as the other one says", name)
        return stored.state

    def path_of(self, bundle: Installed) -> Path:
        """Where ``bundle`` lies."""
        return self.bundles / bundle.file

    def open_bundle(self, bundle: Installed) -> Bundle:
        """Open an installed bundle, if it is the one that was installed and is still accepted.

        Raises:
            BundleRefused: it is not, or is damaged.
            InputError: it cannot be read.
        """
        path = self.path_of(bundle)
        if manifest_sha256(path) != bundle.manifest_sha256:
            raise BundleRefused(f"{path.name} is not the bundle that was installed under this name; install it again")
        return self._trusted(path, whole=False)

    def install(self, source: str | Path) -> Installed:
        """Copy a bundle into the folder, to be activated later; what runs goes on running.

        Raises:
            BundleRefused: it is damaged, not trusted, or no newer than what was committed here.
            InputError: it cannot be read, or the folder not be written; nothing has changed then.
        """
        bundle = _describe(self._trusted(Path(source), whole=True))
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / LOCK):
            if read_state(self.disk, self.folder) is None:
                write_state(self.disk, self.folder, DeviceState())
            changed = transitions.install(self.state, bundle)
            with writing(self.bundles):
                self.disk.make_folder(self.bundles)
                self.disk.sync_folder(self.folder)
            try:
                put(self.disk, self.path_of(bundle), _checked_pieces(Path(source), bundle.sha256))
                self._write(changed)
            except BaseException:
                self._remove_unless_named(bundle)
                raise
        return bundle

    def activate(self) -> SelfTest:
        """Put the candidate through its self-test and make it the active bundle, on trial.

        Raises:
            BundleRefused: it is not trusted any more or fails; then it is forgotten, and what runs goes on running.
            InputError: no bundle waits, or what it needs is not installed; nothing has changed then.
        """
        with self._changing() as state:
            if state.candidate is None:
                raise InputError("no bundle waits to be activated; install one first")
            try:
                result = self._test(state.candidate)
            except TrustRefused:  # of the store, not of the bundle
                raise
            except Refused as exc:  # anything else, e.g. an engine that is not installed, says nothing of the bundle
                reason = in_one_line(exc)
                self._write(transitions.drop_candidate(state, reason))
                raise BundleRefused(f"{state.candidate} failed its self-test: {reason}") from exc
            self._write(transitions.activate(state, self.options))
        return result

    def roll_back(self, reason: str = "asked for") -> DeviceState:
        """Make the previous bundle active again; the one that is left becomes the previous, if it was committed.

        Raises:
            InputError: there is none.
            BundleRefused: it is damaged, or not trusted any more; nothing has changed then.
        """
        with self._changing() as state:
            changed = transitions.roll_back(state, reason, keep=True)
            if changed.active is not None:
                self.open_bundle(changed.active)
            self._write(changed)
        return changed

    def give_up(self, bundle: Installed, reason: str) -> DeviceState:
        """``bundle``, the active one, does not run: the previous becomes active, and this one is forgotten.

        The state as it is where another process has changed it already.
        """
        with self._changing() as state:
            if state.active != bundle or state.previous is None:
                return state
            _log.error("%s does not run (%s); going back to %s", bundle, reason, state.previous)
            changed = transitions.roll_back(state, reason)
            self._write(changed)
        return changed

    def count_start(self) -> DeviceState:
        """Say that an engine is about to be opened; the state thereafter. Writes only while a bundle is on trial."""
        return self._counted(transitions.count_start)

    def take_back_start(self) -> DeviceState:
        """The start that was counted last came to nothing by no fault of the bundle."""
        return self._counted(transitions.take_back_start)

    def report(self, *, refused: bool, bundle: Installed | None = None) -> DeviceState:
        """Say what became of a prediction with the active bundle; the state thereafter. Writes only on trial.

        Nothing is counted where ``bundle``, which predicted, is not the active one any more.
        """

        def change(state: DeviceState) -> DeviceState:
            return state if bundle not in (None, state.active) else transitions.count_outcome(state, refused)

        return self._counted(change)

    def mark(self) -> tuple[tuple[int, int, int] | None, ...]:
        """Something that is another one after every change of the state; cheap to ask for before each prediction."""
        return tuple(_mark(self.folder / name) for name in STATE_FILES)

    def _counted(self, change: Callable[[DeviceState], DeviceState]) -> DeviceState:
        state = self.state
        if state.trial is None:
            return state
        with self._changing() as state:
            changed = change(state)
            if changed is not state:
                self._write(changed)
        return changed

    def _test(self, bundle: Installed) -> SelfTest:
        path, options = self.path_of(bundle), self.options
        opened = self._trusted(path, whole=True)
        if _sha256(path) != bundle.sha256:
            raise BundleRefused(f"{path.name} is not what was installed")
        engine = Engine(
            opened,
            backend=options.backend,
            threads=options.threads,
            trust=self.trust,
            allow_unsigned=self.allow_unsigned,
        )
        with engine:
            return self_test(engine, options.max_latency_ms)

    def _trusted(self, path: Path, *, whole: bool) -> Bundle:
        """The bundle at ``path``, if a key that this device trusts signed it."""
        return Bundle.open(path, whole=whole, trust=find_store(self.trust), allow_unsigned=self.allow_unsigned)

    @contextmanager
    def _changing(self) -> Iterator[DeviceState]:
        """The state, while nobody else can change it."""
        self.read()  # makes nothing at a wrong path
        with exclusive(self.folder / LOCK):
            yield self.state

    def _remove_unless_named(self, bundle: Installed) -> None:
        """Give the space of an installation that failed back, whatever it failed at."""
        with suppress(OSError, MedfmError):
            if bundle.file not in self.state.files:
                discard(self.disk, self.path_of(bundle))

    def _write(self, state: DeviceState) -> None:
        """Make ``state`` durable, then remove the bundles that neither it nor the state before it names."""
        before = self.state
        write_state(self.disk, self.folder, state)
        with suppress(OSError):  # what stays is removed the next time
            for name in self.disk.names(self.bundles):
                if BUNDLE_FILE.fullmatch(name) and name not in state.files | before.files:
                    discard(self.disk, self.bundles / name)


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        return "is no device folder: no bundle was ever installed there"
    return "is no folder" if path.exists() else "is not there"


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def manifest_sha256(path: Path) -> str:
    """Hex sha256 of the manifest of the bundle at ``path``, as stored.

    Raises:
        BundleRefused: it is no bundle.
        InputError: it cannot be read.
    """
    return hashlib.sha256(archive.read_member(path, archive.read_directory(path)[0])).hexdigest()


def _describe(bundle: Bundle) -> Installed:
    return Installed(
        name=bundle.manifest.name,
        sha256=_sha256(bundle.path),
        manifest_sha256=manifest_sha256(bundle.path),
        model_digest=bundle.model_digest,
        release=bundle.manifest.release_number,
        bytes=bundle.path.stat().st_size,
    )


def _sha256(path: Path) -> str:
    sha256 = hashlib.sha256()
    for piece in _pieces(path):
        sha256.update(piece)
    return sha256.hexdigest()


def _pieces(path: Path) -> Iterator[bytes]:
    with archive.open_archive(path) as file:
        while piece := file.read(archive.CHUNK_BYTES):
            yield piece


def _checked_pieces(path: Path, expected: str) -> Iterator[bytes]:
    """The content of ``path``; raises BundleRefused at its end where it is not what was verified before."""
    sha256 = hashlib.sha256()
    for piece in _pieces(path):
        sha256.update(piece)
        yield piece
    if sha256.hexdigest() != expected:
        raise BundleRefused(f"{in_one_line(path.name)} changes while it is installed; try again")
