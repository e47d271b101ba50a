"""`ActiveEngine`: the engine of whatever is active in a device folder, for the program that embeds it.

It says of every prediction on trial what became of it, and goes on with the bundle before where the active one does not
open, or its trial fails.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from medfm_compress.runtime.columns import Column, Values
from medfm_compress.runtime.device.folder import DeviceFolder
from medfm_compress.runtime.device.state import DeviceState, Installed
from medfm_compress.runtime.engine import Atypical, Engine
from medfm_compress.runtime.errors import BundleRefused, InputError, MedfmError, Refused, in_one_line
from medfm_compress.runtime.prediction import NetworkInput, Prediction
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    import pydicom

REPLAY_EVERY_S = 24 * 3600.0

_log = logging.getLogger("medfm_compress.runtime")


class Observer(Protocol):
    """Who hears of everything that an `ActiveEngine` does; whatever it raises is logged and changes nothing."""

    def opened(self, engine: Engine, bundle: Installed) -> None:
        """``engine`` predicts from now on."""

    def predicted(self, source: Any, prediction: Prediction, seen: NetworkInput) -> None:
        """An image was predicted."""

    def refused(self, source: Any, error: Exception) -> None:
        """An image was refused."""

    def replayed(self, error: float | None) -> None:
        """All golden cases were replayed; None where one gave another result."""

    def flush(self) -> None:
        """The engine is closed."""


class ActiveEngine:
    """What `Engine` is for a file, for a device folder; safe to use from several threads.

    What another process activates, or goes back to, predicts from the next image on.
    """

    def __init__(
        self,
        device: DeviceFolder | str | Path,
        *,
        threads: int | None = None,
        cache_dir: str | Path | None = None,
        observers: Sequence[Observer] = (),
        replay_every_s: float = REPLAY_EVERY_S,
    ) -> None:
        """Open the active bundle; the one before it, where that does not open.

        Args:
            device: the folder. Backend and threads are those of the last activation.
            threads: for one prediction, instead.
            cache_dir: see `Engine`.
            observers: e.g. a `Monitor`.
            replay_every_s: all golden cases are replayed before the first prediction that comes so much later than the
                opening, or than the last replay; a case that gives another result brings the previous bundle back.

        Raises:
            BundleRefused: nothing is active, or neither bundle opens; nothing has changed then.
            Refused: the state of the folder is damaged.
            InputError: see `Engine`; no fault of the bundle, nothing has changed.
        """
        self.device = device if isinstance(device, DeviceFolder) else DeviceFolder(device)
        self._threads, self._cache_dir = threads, cache_dir
        self._observers, self._replay_every_s = tuple(observers), replay_every_s
        self._swap, self._outcomes = threading.Lock(), 0
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}; it must be at least 1")
        self._mark = self.device.mark()
        state = self._start()
        try:
            self._open(state)
        except MedfmError:  # the previous bundle did not open either, so it is no fault of the active one
            with suppress(MedfmError):
                self.device.take_back_start()
            raise

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

    @property
    def columns(self) -> tuple[Column, ...]:
        """What it takes beside the image."""
        return self._engine.columns

    def predict(
        self,
        source: str | Path | bytes | pydicom.Dataset | NDArray[Any],
        *,
        columns: Values | None = None,
        atypical: Atypical = "withhold",
        keep_probabilities: bool = False,
    ) -> Prediction:
        """Predict for one image, and count it while the bundle is on trial; see `Engine.predict`."""
        return self.predict_with_input(
            source, columns=columns, atypical=atypical, keep_probabilities=keep_probabilities
        )[0]

    def predict_with_input(
        self,
        source: str | Path | bytes | pydicom.Dataset | NDArray[Any],
        *,
        columns: Values | None = None,
        atypical: Atypical = "withhold",
        keep_probabilities: bool = False,
    ) -> tuple[Prediction, NetworkInput]:
        """`predict`, and what the network was given."""
        self._follow()
        self._replay_if_due()
        try:
            prediction, seen = self._engine.predict_with_input(
                source, columns=columns, atypical=atypical, keep_probabilities=keep_probabilities
            )
        except InputError:  # of the caller, not of the bundle
            raise
        except Exception as exc:
            self._note_refusal(source, exc)
            raise
        self._note(source, prediction, seen)
        return prediction, seen

    def _note(self, source: Any, prediction: Prediction, seen: NetworkInput) -> None:
        self._tell(lambda observer: observer.predicted(source, prediction, seen))
        self._count(refused=not prediction.probabilities)  # withheld: a bundle that finds every image unlike is bad too

    def _note_refusal(self, source: Any, error: Exception) -> None:
        self._tell(lambda observer: observer.refused(source, error))
        self._count(refused=True)

    def predict_frames(
        self,
        source: str | Path | bytes | pydicom.Dataset | NDArray[Any],
        *,
        columns: Values | None = None,
        atypical: Atypical = "withhold",
    ) -> Iterator[Prediction]:
        """`Engine.predict_frames`, each counted while the bundle is on trial."""
        self._follow()
        self._replay_if_due()
        try:
            answers = self._engine.predict_frames_with_input(source, columns=columns, atypical=atypical)
            for prediction, seen in answers:
                self._note(source, prediction, seen)
                yield prediction
        except InputError:  # of the caller, not of the bundle
            raise
        except Exception as exc:
            self._note_refusal(source, exc)
            raise

    def replay_goldens(self) -> float:
        """Replay all golden cases now; the relative logit error.

        Raises:
            BundleRefused: one gives another result, and there is no previous bundle; else that one predicts now.
        """
        with self._swap:
            return self._replay()

    def close(self) -> None:
        """Release the session, and let observers write."""
        self._engine.close()
        self._tell(lambda observer: observer.flush())
        if self._on_trial and not self._outcomes:  # it ends in good order, and was not asked for anything
            with suppress(MedfmError):
                self.device.take_back_start()

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
        """Open the active bundle of ``state``; or the previous one, which is active then."""
        if state.active is None:
            raise BundleRefused(f"no bundle is active in {in_one_line(self.device.folder)}; activate one first")
        try:
            self._use(state.active, on_trial=state.trial is not None)
        except Refused as exc:
            now = self.device.state
            if now.active != state.active:  # another process has changed it
                self._open(now)
            elif state.previous is None:
                raise
            else:
                self._go_back(state.active, state.previous, exc)

    def _go_back(self, active: Installed, previous: Installed, error: Refused) -> None:
        """Open ``previous``, and only then say that it is active: what ails both is no fault of a bundle."""
        try:
            self._use(previous, on_trial=False)
        except Refused:
            raise error from None
        try:
            self._on_trial = self.device.give_up(active, in_one_line(error)).trial is not None
        except InputError as exc:
            _log.error("%s does not run, and going back to %s is not recorded: %s", active, previous, in_one_line(exc))

    def _use(self, bundle: Installed, *, on_trial: bool) -> None:
        """Open ``bundle``; raises Refused where it cannot be used."""
        try:
            opened = self.device.open_bundle(bundle)
        except InputError as exc:
            raise BundleRefused(str(exc)) from exc
        state = self.device.state
        self._engine = Engine(
            opened,
            backend=state.backend,
            threads=self._threads or state.threads,
            cache_dir=self._cache_dir,
            trust=self.device.trust,
            allow_unsigned=self.device.allow_unsigned,
        )
        self._bundle, self._on_trial, self._replayed_at = bundle, on_trial, time.monotonic()
        self._tell(lambda observer: observer.opened(self._engine, bundle))

    def _follow(self) -> None:
        """Open what another process has activated since."""
        if self.device.mark() == self._mark:
            return
        with self._swap:
            self._mark = self.device.mark()
            state = self.device.state
            if state.active is not None and state.active != self._bundle:
                _log.warning("another process has activated %s; going on with it", state.active)
                self._open(self._start())

    def _replay_if_due(self) -> None:
        if time.monotonic() - self._replayed_at < self._replay_every_s:
            return
        with self._swap:
            if time.monotonic() - self._replayed_at >= self._replay_every_s:
                self._replay()

    def _replay(self) -> float:
        try:
            error = self._engine.replay_goldens()
        except Refused as exc:
            _log.error("the golden cases give another result: %s", in_one_line(exc))
            self._tell(lambda observer: observer.replayed(None))
            state = self.device.state
            if state.previous is None or state.active != self._bundle:
                raise
            self._go_back(self._bundle, state.previous, exc)
            return self._engine.golden_error
        self._replayed_at = time.monotonic()
        self._tell(lambda observer: observer.replayed(error))
        return error

    def _tell(self, call: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                call(observer)
            except Exception as exc:  # noqa: BLE001 -- nothing that watches may keep an answer back
                _log.error("an observer of the device failed: %s", type(exc).__name__)

    def _count(self, *, refused: bool) -> None:
        if not self._on_trial:
            return
        with self._swap:
            try:
                state = self.device.report(refused=refused, bundle=self._bundle)
                self._outcomes += 1
            except (InputError, Refused) as exc:
                _log.warning("the trial is not counted: %s", in_one_line(exc))
                return
            self._on_trial = state.trial is not None and state.active == self._bundle
            if state.active is not None and state.active != self._bundle:
                _log.error("%s failed its trial; going on with %s", self._bundle, state.active)
                self._open(state)
