"""The reading of images: claim, check the header, predict, make results, finish; or quarantine with a reason.

Whatever an image does ends in results or in quarantine: the spool counts an attempt durably before it begins, so that
one that ends the process, or keeps it from getting on, is quarantined after ``spool.attempts``. What is no fault of an
image is none: where the engine may not run, or the disk is full, the image goes back to the queue, and the node says so
until it can go on.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import numpy as np

from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import (
    BundleRefused,
    ImageRefused,
    InputError,
    MedfmError,
    MissingDependency,
    Refused,
    TrustRefused,
    in_one_line,
)
from medfm_compress.runtime.fill_columns import keywords_of
from medfm_compress.runtime.heat_map import HeatMap, heat_map
from medfm_compress.runtime.images.size_limits import read_limited
from medfm_compress.runtime.node.audit import Audit
from medfm_compress.runtime.node.config import EngineConfig, NodeConfig
from medfm_compress.runtime.node.header_checks import (
    Unusable,
    check_header,
    check_identity,
    patient_of,
    read_header,
    text_of,
)
from medfm_compress.runtime.node.last_results import LastResults
from medfm_compress.runtime.node.metrics import Metrics
from medfm_compress.runtime.node.open_engine import current, open_engine
from medfm_compress.runtime.node.progress import Progress
from medfm_compress.runtime.node.results.assessment import ReadBy
from medfm_compress.runtime.node.results.results import Results
from medfm_compress.runtime.node.spool.records import PATIENT_ACCEPTED, ResultObject, SpooledInstance
from medfm_compress.runtime.node.spool.spool import Spool
from medfm_compress.runtime.prediction import Prediction

if TYPE_CHECKING:
    from pydicom import Dataset

    from medfm_compress.runtime.device.active_engine import ActiveEngine

NAME = "reader"
LIMIT_S = 600.0
"""An image that takes longer will not end: the process does, and the attempt counts."""
_IDLE_S = 1.0
_AGAIN_S = 15.0

_log = logging.getLogger("medfm_compress.runtime.node")


class Reader:
    """The one thread that reads images; the engine itself uses as many as it was given."""

    def __init__(
        self,
        config: NodeConfig,
        spool: Spool,
        *,
        audit: Audit,
        metrics: Metrics,
        progress: Progress,
        opener: Callable[[EngineConfig], Engine | ActiveEngine] = open_engine,
    ) -> None:
        """Open the engine; raises what `open_engine` does."""
        self._config, self._spool = config, spool
        self._results = Results(
            config.results, pacs=[pacs.name for pacs in config.pacs], fhir=[fhir.name for fhir in config.fhir]
        )
        self._audit, self._metrics, self._progress = audit, metrics, progress
        self._opener = opener
        self._engine: Engine | ActiveEngine | None = opener(config.engine)
        self.fault = self.spool_fault = ""
        self.last_results = LastResults()
        self._current: SpooledInstance | None = None
        self._failed_at = (0, 0)  # the image at which the engine failed last, how often in a row
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
        metrics.gauge("engine_ready", 1)

    def start(self) -> None:
        """Read from now on."""
        self._progress.watch(NAME, self._thread.is_alive, LIMIT_S)
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish the image that is being read, for at most ``timeout_s``; whether it was. Else it is put back."""
        self._stop.set()
        self._spool.notify()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            if self._current is not None:
                self._give_back(self._current)
            return False
        if self._engine is not None:
            self._engine.close()
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            self._progress.beat(NAME)
            if self._engine is None and not self._reopen():
                self._stop.wait(_AGAIN_S)
                continue
            try:
                instance = self._spool.claim()
            except (OSError, sqlite3.Error) as exc:
                self._wait_for_room(exc)
                continue
            self.spool_fault = ""
            if instance is None:
                self._spool.wait(_IDLE_S)
            else:
                self._current = instance
                self.read(instance)
                self._current = None

    def read(self, instance: SpooledInstance) -> None:
        """Read one claimed instance to its end; raises nothing of what it may meet."""
        start = time.perf_counter()
        try:
            outcome = self._read(instance)
        except Unusable as exc:
            self._quarantine(instance, exc.code, exc.reason)
            outcome = "quarantined"
        except (BundleRefused, TrustRefused) as exc:
            self._go_without_engine(exc)
            outcome = self._put_back_after_engine(instance)
        except MedfmError as exc:
            code = "missing-decoder" if isinstance(exc, MissingDependency) else "image-refused"
            self._quarantine(instance, code, in_one_line(exc))
            outcome = "quarantined"
        except (OSError, sqlite3.Error) as exc:
            self._give_back(instance)
            self._wait_for_room(exc)
            outcome = "given-back"
        except Exception as exc:  # noqa: BLE001 -- of this image perhaps, and the others shall be read
            _log.exception("reading an image failed")
            self._quarantine(instance, "internal-error", f"the node failed at this image ({type(exc).__name__})")
            outcome = "quarantined"
        self._metrics.count("read_total", outcome=outcome)
        self._metrics.observe("read_seconds", time.perf_counter() - start)

    def _read(self, instance: SpooledInstance) -> str:
        data = read_limited(instance.path)
        header = read_header(data)
        check_identity(data)
        needs_id = self._config.spool.without_patient_id == "quarantine"
        check_header(header, instance.arrival, needs_patient_id=needs_id)
        study, accepted = text_of(header, "StudyInstanceUID"), instance.reason_code == PATIENT_ACCEPTED
        if not self._spool.study_patient(study, patient_of(header), replaces=accepted):
            raise Unusable(
                "other-patient",
                "an earlier image of this study names another patient; correct one of them, or replay this one with "
                "--accept-patient if it is right",
            )
        if self._is_repeat(instance):
            self._finish(instance, (), "repeated")
            return "repeated"
        objects, outcome = self._predict(header, data, instance)
        self._finish(instance, objects, outcome)
        return outcome

    def engine(self) -> Engine | ActiveEngine:
        """The engine that reads now; raises BundleRefused where none may."""
        engine = self._engine
        if engine is None:
            raise BundleRefused(self.fault or "no engine is open; try again in a moment")
        return engine

    def _predict(self, header: Dataset, data: bytes, instance: SpooledInstance) -> tuple[tuple[ResultObject, ...], str]:
        engine = self.engine()
        prediction = self._predicted(engine, data)
        self.last_results.add(instance, prediction)
        answering = current(engine)
        wants_map = self._config.results.heat_map and self._config.pacs and prediction.probabilities
        explains = wants_map and not answering.task.is_dense  # whose label map says where
        objects = self._results.make_objects(
            header,
            prediction,
            ReadBy.of(answering),
            received_at=instance.received_at,
            heat_map=_heat_map(answering, data, prediction) if explains and not prediction.frames else None,
        )
        return objects, "read" if prediction.probabilities else "withheld"

    def _predicted(self, engine: Engine | ActiveEngine, data: bytes) -> Prediction:
        """The engine's answer; BundleRefused where it is the engine that has failed, and not the image."""
        try:
            return engine.predict(data, atypical=self._config.engine.atypical)
        except (ImageRefused, MissingDependency):
            raise
        except InputError as exc:  # closed, or its folder cannot be used
            raise BundleRefused(in_one_line(exc)) from exc
        except Refused as exc:
            if isinstance(engine, Engine) or _is_readable(engine):
                raise
            raise BundleRefused(in_one_line(exc)) from exc

    def _put_back_after_engine(self, instance: SpooledInstance) -> str:
        """To the queue; to quarantine where it is always this image at which the engine fails, once it reads again."""
        same = self._failed_at[0] == instance.id
        self._failed_at = (instance.id, self._failed_at[1] + 1 if same else 1)
        if self._failed_at[1] > self._config.spool.attempts:
            self._quarantine(instance, "engine-fails", f"the engine failed at this image {self._failed_at[1]} times")
            return "quarantined"
        self._give_back(instance)
        return "given-back"

    def _is_repeat(self, instance: SpooledInstance) -> bool:
        """Whether an image of the same UID was read before and shows the same; raises Unusable where one shows another.

        It is held against those that were read, and against those that came before it and wait. Of one in quarantine
        nothing was made: it may have been sent again because of that.
        """
        is_read = False
        for other in self._spool.same_instances(instance.arrival.sop_instance_uid, instance.id):
            was_read = other.state in ("read", "done")
            if not was_read and (other.state == "quarantined" or other.id > instance.id):
                continue
            if not other.path.exists():
                raise Unusable(
                    "same-uid", "an image of this SOP Instance UID was read before, and cannot be compared now"
                )
            beside = keywords_of(current(self._engine).manifest.told) if self._engine else ()
            if not same_pixels(read_limited(other.path), read_limited(instance.path), beside):
                raise Unusable("same-uid", "another image has this SOP Instance UID; every image needs one of its own")
            is_read = is_read or was_read
        return is_read

    def _finish(self, instance: SpooledInstance, objects: tuple[ResultObject, ...], outcome: str) -> None:
        self._spool.finish(instance, objects)
        self._audit.record(
            "read",
            instance=instance.id,
            uid=instance.arrival.sop_instance_uid,
            outcome=outcome,
            results=len(objects),
            model=current(self._engine).manifest.model_digest if self._engine else "",
        )

    def _quarantine(self, instance: SpooledInstance, code: str, reason: str) -> None:
        try:
            self._spool.quarantine(instance.id, code, reason)
        except (OSError, sqlite3.Error) as exc:
            self._give_back(instance)
            self._wait_for_room(exc)
            return
        self._metrics.count("quarantined_total", reason=code)
        self._audit.record(
            "quarantined", instance=instance.id, uid=instance.arrival.sop_instance_uid, code=code, reason=reason
        )
        _log.warning("image %d is in quarantine (%s): %s", instance.id, code, reason)

    def _give_back(self, instance: SpooledInstance) -> None:
        """To the queue, as if it had not been claimed; where even that cannot be written, the next start does it."""
        try:
            self._spool.release(instance.id)
        except (OSError, sqlite3.Error) as exc:
            _log.error("an image could not be put back: %s", type(exc).__name__)

    def _go_without_engine(self, error: MedfmError) -> None:
        self.fault = f"the engine does not read: {in_one_line(error)}"
        _log.error("%s", self.fault)
        self._audit.record("engine-stopped", reason=in_one_line(error))
        self._metrics.gauge("engine_ready", 0)
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def _reopen(self) -> bool:
        try:
            self._engine = self._opener(self._config.engine)
        except MedfmError as exc:
            self.fault = f"the engine does not open: {in_one_line(exc)}"
            return False
        self.fault = ""
        _log.warning("the engine reads again")
        self._audit.record("engine-opened", model=current(self._engine).manifest.model_digest)
        self._metrics.gauge("engine_ready", 1)
        return True

    def _wait_for_room(self, error: OSError | sqlite3.Error) -> None:
        fault = f"the spool cannot be written: {in_one_line(error)}"
        if fault != self.spool_fault:
            _log.error("%s; trying again", fault)
        self.spool_fault = fault
        self._stop.wait(_AGAIN_S / 5)


def _is_readable(engine: ActiveEngine) -> bool:
    """Whether it is known what is active."""
    try:
        engine.device.read()
    except MedfmError:
        return False
    return True


def _heat_map(engine: Engine, data: bytes, prediction: Prediction) -> HeatMap | None:
    return heat_map(engine, engine.inputs_of(data), prediction)


def same_pixels(first: bytes, second: bytes, attributes: Collection[str] = ()) -> bool:
    """Whether two DICOM files show the same image; of what cannot be decoded, whether the bytes are the same.

    ``attributes`` are keywords of those that a network reads beside it: they must say the same, too.
    """
    from medfm_compress.runtime.read_image import read_image

    try:
        a, b = (read_image(data, attributes=attributes) for data in (first, second))
    except MedfmError:
        return first == second
    same = a.values.shape == b.values.shape and a[1:3] == b[1:3] and bool(np.array_equal(a.values, b.values))
    return same and a.attributes == b.attributes
