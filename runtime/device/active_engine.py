"""`ActiveEngine`: the engine of whatever is active in a device folder, for the program that embeds it.

It says of every prediction on trial what became of it, and goes on with the bundle before where the active one does not
open, or its trial fails.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
from numpy.typing import NDArray

from medfm_compress.runtime.device.folder import DeviceFolder
from medfm_compress.runtime.device.state import DeviceState, Installed
from medfm_compress.runtime.engine import Engine, Prediction
from medfm_compress.runtime.errors import BundleRefused, InputError, MedfmError, Refused, in_one_line
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    import pydicom

_log = logging.getLogger("medfm_compress.runtime")


class ActiveEngine:
    """What `Engine` is for a file, for a device folder; safe to use from several threads."""

    def __init__(self, device: DeviceFolder | str | Path, *, cache_dir: str | Path | None = None) -> None:
        """Open the active bundle; the one before it, where that does not open.

        Args:
            device: the folder. Its options say on which backend and with how many threads.
            cache_dir: see `Engine`.

        Raises:
            BundleRefused: nothing is active, or neither bundle opens.
            Refused: the state of the folder is damaged.
        """
        self.device = device if isinstance(device, DeviceFolder) else DeviceFolder(device)
        self._cache_dir = cache_dir
        self._swap = threading.Lock()
        self._open(self._start())

    @property
    def engine(self) -> Engine:
        """The one that predicts now; another after a trial that failed."""
        return self._engine

    @property
    def bundle(self) -> Installed:
        """The bundle that runs."""
        return self._bundle

    @property
    def task(self) -> Task:
        """What its outputs mean."""
        return self._engine.task

    def predict(self, source: str | Path | bytes | pydicom.Dataset | NDArray[Any]) -> Prediction:
        """Predict for one image, and count it while the bundle is on trial; see `Engine.predict`."""
        try:
            prediction = self._engine.predict(source)
        except InputError:  # of the caller, not of the bundle
            raise
        except Exception:
            self._count(refused=True)
            raise
        self._count(refused=False)
        return prediction

    def close(self) -> None:
        """Release the session."""
        self._engine.close()

    def __enter__(self) -> ActiveEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> DeviceState:
        try:
            return self.device.count_start()
        except InputError as exc:  # read-only: the trial stands still, and what passed its self-test runs
            _log.warning("the start on trial is not counted: %s", in_one_line(exc))
            return self.device.state

    def _open(self, state: DeviceState) -> None:
        while True:
            bundle = state.active
            if bundle is None:
                raise BundleRefused(
                    f"no bundle is active in {in_one_line(self.device.folder)}; install one and activate it"
                )
            options = self.device.options
            try:
                self._engine = Engine(
                    self.device.open_bundle(bundle),
                    backend=options.backend,
                    threads=options.threads,
                    cache_dir=self._cache_dir,
                )
            except MedfmError as exc:
                state = self._fall_back(state, bundle, exc)
            else:
                self._bundle, self._on_trial = bundle, state.trial is not None
                return

    def _fall_back(self, state: DeviceState, bundle: Installed, error: MedfmError) -> DeviceState:
        """The state to go on with; raises ``error`` where there is none."""
        try:
            changed = self.device.give_up(bundle, in_one_line(error))
        except InputError as exc:
            _log.error("going back to the previous bundle without a record of it: %s", in_one_line(exc))
            changed = msgspec.structs.replace(state, active=state.previous, previous=None, trial=None)
        if changed.active is None or changed.active == bundle:
            raise error
        return changed

    def _count(self, *, refused: bool) -> None:
        if not self._on_trial:
            return
        with self._swap:
            try:
                state = self.device.report(refused=refused)
            except (InputError, Refused) as exc:
                _log.warning("the trial is not counted: %s", in_one_line(exc))
                return
            self._on_trial = state.trial is not None and state.active == self._bundle
            if state.active is not None and state.active != self._bundle:
                _log.error("%s failed its trial; going on with %s", self._bundle, state.active)
                self._open(state)
