"""`Shadow`: the candidate of a device predicts for the same images as the active bundle, and is only counted.

    FOLDER/monitor/shadow.json

Its answers are given to nobody, and nothing that it does keeps the active bundle's answer from being given. It costs
its own prediction, decoding included, after each of the active bundle's.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec.structs import replace
from numpy.typing import NDArray

from medfm_compress.runtime.columns import Values
from medfm_compress.runtime.device.disk import writing
from medfm_compress.runtime.device.folder import DeviceFolder
from medfm_compress.runtime.device.lock import exclusive
from medfm_compress.runtime.device.sealed_json import read_sealed, write_sealed
from medfm_compress.runtime.device.state import DeviceState, Installed
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import InputError, MedfmError, Refused, in_one_line
from medfm_compress.runtime.monitor.histogram import Count
from medfm_compress.runtime.monitor.monitor import EVERY, FOLDER, LOCK
from medfm_compress.runtime.prediction import NetworkInput, Prediction

if TYPE_CHECKING:
    import pydicom

SCHEMA_VERSION = 1
FILE = "shadow.json"
SHIFT_EDGES = (-0.5, -0.2, -0.1, -0.05, -0.02, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Of the candidate's probability minus the active bundle's."""
_SHIFTS = len(SHIFT_EDGES) + 1

_log = logging.getLogger("medfm_compress.runtime")


class FindingShadow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One finding, on the images for which both bundles predicted.

    Attributes:
        both: images in which both call it.
        neither: in which neither does.
        only_active: in which the active bundle alone does.
        only_candidate: in which the candidate alone does.
        shifts: images by the shift of the probability, between `SHIFT_EDGES`.
        sum_of_shifts: candidate minus active; divided by the images it is the mean shift.
    """

    both: Count = 0
    neither: Count = 0
    only_active: Count = 0
    only_candidate: Count = 0
    shifts: Annotated[tuple[Count, ...], msgspec.Meta(min_length=_SHIFTS, max_length=_SHIFTS)] = (0,) * _SHIFTS
    sum_of_shifts: float = 0.0

    @property
    def images(self) -> int:
        """Images for which both predicted it."""
        return self.both + self.neither + self.disagreements

    @property
    def disagreements(self) -> int:
        """Images for which the decision differs."""
        return self.only_active + self.only_candidate


class ShadowRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a candidate differs from the active bundle.

    Attributes:
        schema_version: of this file.
        active: sha256 of the active bundle's manifest.
        candidate: likewise.
        predicted: images for which both predicted.
        refused_by_active: by it alone.
        refused_by_candidate: by it alone.
        refused_by_both: by both.
        other_label: images of which the most probable class is another.
        findings: finding → counts; those that both bundles have.
    """

    schema_version: int = SCHEMA_VERSION
    active: str
    candidate: str
    predicted: Count = 0
    refused_by_active: Count = 0
    refused_by_candidate: Count = 0
    refused_by_both: Count = 0
    other_label: Count = 0
    findings: dict[str, FindingShadow] = {}

    def __post_init__(self) -> None:
        for name, counted in self.findings.items():
            if not 0 < counted.images <= self.predicted:
                raise InputError(f"{name!r} was compared on {counted.images} of {self.predicted} images")


class Shadow:
    """An observer of an `ActiveEngine` that runs the device's candidate beside it."""

    def __init__(self, device: DeviceFolder) -> None:
        """The candidate that waits in ``device`` when its active bundle is opened."""
        self._device = device
        self._engine: Engine | None = None
        self._record: ShadowRecord | None = None
        self._lock = threading.Lock()
        self._unwritten = 0

    def opened(self, engine: Engine, bundle: Installed) -> None:
        """Open the candidate beside ``engine``; what keeps it from opening is logged."""
        self.flush()
        self._engine = self._record = None
        state = self._device.state
        if state.candidate is None:
            _log.warning("no candidate waits in the device folder, so none runs beside the active bundle")
            return
        try:
            self._engine = Engine(
                self._device.open_bundle(state.candidate),
                backend=state.backend,
                threads=engine.info.threads,
                trust=self._device.trust,
                allow_unsigned=self._device.allow_unsigned,
            )
        except MedfmError as exc:
            _log.warning("the candidate does not run beside the active bundle: %s", in_one_line(exc))
            return
        self._record = ShadowRecord(active=bundle.manifest_sha256, candidate=state.candidate.manifest_sha256)

    def predicted(
        self, source: str | Path | bytes | pydicom.Dataset | NDArray[Any], prediction: Prediction, seen: NetworkInput
    ) -> None:
        """Let the candidate predict for the same image."""
        self._count(source, prediction, seen.given)

    def refused(self, source: str | Path | bytes | pydicom.Dataset | NDArray[Any], _: Exception) -> None:
        """Let the candidate predict for an image that the active bundle refused."""
        self._count(source, None, {})

    def replayed(self, error: float | None) -> None:
        """Nothing of a candidate hangs on it."""

    def flush(self) -> None:
        """Add what was counted to the file."""
        with self._lock:
            if self._record is None or not self._unwritten:
                return
            try:
                self._write(self._record)
            except MedfmError as exc:
                _log.warning("the shadow cannot be counted: %s", in_one_line(exc))
                return
            self._record = ShadowRecord(active=self._record.active, candidate=self._record.candidate)
            self._unwritten = 0

    def _count(self, source: Any, active: Prediction | None, given: Values) -> None:
        engine = self._engine
        if engine is None or self._record is None:
            return
        try:
            taken = {column.name for column in engine.manifest.told}
            candidate = engine.predict(source, columns={name: given[name] for name in given if name in taken})
        except Exception:  # noqa: BLE001 -- a candidate may do anything but reach the active bundle's answer
            candidate = None
        with self._lock:
            self._record = compare(self._record, active, candidate)
            self._unwritten += 1
            full = self._unwritten >= EVERY
        if full:
            self.flush()

    def _write(self, counted: ShadowRecord) -> None:
        folder = self._device.folder / FOLDER
        with writing(folder):
            folder.mkdir(exist_ok=True)
        with exclusive(folder / LOCK):
            before = _read_or_none(self._device)
            same = before is not None and (before.active, before.candidate) == (counted.active, counted.candidate)
            write_sealed(self._device.disk, folder / FILE, added(before, counted) if before and same else counted)


def read_shadow(device: DeviceFolder, state: DeviceState) -> ShadowRecord | None:
    """What was counted of the candidate beside the active bundle of ``state``; None where nothing was."""
    record = _read_or_none(device)
    if record is None or state.active is None or state.candidate is None:
        return None
    here = (state.active.manifest_sha256, state.candidate.manifest_sha256)
    return record if (record.active, record.candidate) == here else None


def _given(prediction: Prediction | None) -> Prediction | None:
    return prediction if prediction is not None and prediction.probabilities else None


def compare(record: ShadowRecord, active: Prediction | None, candidate: Prediction | None) -> ShadowRecord:
    """The record with one more image; None stands for a refusal, as does a prediction that gives no finding."""
    active, candidate = (_given(prediction) for prediction in (active, candidate))
    if active is None or candidate is None:
        return replace(
            record,
            refused_by_both=record.refused_by_both + (active is candidate is None),
            refused_by_active=record.refused_by_active + (active is None and candidate is not None),
            refused_by_candidate=record.refused_by_candidate + (active is not None and candidate is None),
        )
    names = [name for name in active.probabilities if name in candidate.probabilities]
    return replace(
        record,
        predicted=record.predicted + 1,
        other_label=record.other_label + (active.label != candidate.label),
        findings={
            name: _compare_finding(
                record.findings.get(name, FindingShadow()),
                (bool(active.findings.get(name)), bool(candidate.findings.get(name))),
                candidate.probabilities[name] - active.probabilities[name],
            )
            for name in names
        },
    )


def added(a: ShadowRecord, b: ShadowRecord) -> ShadowRecord:
    """The sum of two records of the same pair."""
    names = dict.fromkeys((*a.findings, *b.findings))
    none = FindingShadow()
    return replace(
        b,
        **{name: getattr(a, name) + getattr(b, name) for name in _COUNTS},
        findings={name: _add_findings(a.findings.get(name, none), b.findings.get(name, none)) for name in names},
    )


_COUNTS = ("predicted", "refused_by_active", "refused_by_candidate", "refused_by_both", "other_label")


def _compare_finding(counted: FindingShadow, called: tuple[bool, bool], shift: float) -> FindingShadow:
    position = bisect_right(SHIFT_EDGES, shift)
    return replace(
        counted,
        both=counted.both + (called == (True, True)),
        neither=counted.neither + (called == (False, False)),
        only_active=counted.only_active + (called == (True, False)),
        only_candidate=counted.only_candidate + (called == (False, True)),
        shifts=tuple(value + (i == position) for i, value in enumerate(counted.shifts)),
        sum_of_shifts=counted.sum_of_shifts + shift,
    )


def _add_findings(a: FindingShadow, b: FindingShadow) -> FindingShadow:
    return FindingShadow(
        both=a.both + b.both,
        neither=a.neither + b.neither,
        only_active=a.only_active + b.only_active,
        only_candidate=a.only_candidate + b.only_candidate,
        shifts=tuple(x + y for x, y in zip(a.shifts, b.shifts, strict=True)),
        sum_of_shifts=a.sum_of_shifts + b.sum_of_shifts,
    )


def _read_or_none(device: DeviceFolder) -> ShadowRecord | None:
    try:
        return read_sealed(device.disk, device.folder / FOLDER / FILE, ShadowRecord, SCHEMA_VERSION)
    except Refused as exc:
        _log.warning("what was counted of a candidate is lost: %s", in_one_line(exc))
        return None
