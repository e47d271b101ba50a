"""What stands between a bundle and its first answer: trust, the choice of a variant, its tensors, its golden cases."""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from medfm_compress.runtime import golden_cases as goldens
from medfm_compress.runtime import variant_selection as choice
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Manifest, Variant
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import BundleRefused, InputError, in_one_line
from medfm_compress.runtime.meanwhile import Meanwhile
from medfm_compress.runtime.nearest_cases import NearestCases, nearest_cases
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.trust.store import TrustStore

if TYPE_CHECKING:
    from medfm_compress.runtime.typicality import TypicalityJudge

UNSIGNED_FLAG = "unsigned-bundle"
CLOCK_FLAG = "clock-is-wrong"
START_GOLDENS = 1
"""Golden cases replayed at the start: one already passes through every operator; ``inspect --verify`` replays all."""

_OF_EVERY_IMAGE = ("PIL.Image", "medfm_compress.runtime.read_image", "medfm_compress.runtime.answers.table")
_OF_DICOM = ("medfm_compress.runtime.dicom.read_dicom", "pydicom")
_OF_OTHER_FILES = ("medfm_compress.runtime.images.read_raster", "PIL.ImageOps", "PIL.JpegImagePlugin")

_log = logging.getLogger("medfm_compress.runtime")


def opened(bundle: str | Path | Bundle, store: TrustStore | None, allow_unsigned: bool) -> Bundle:
    """The bundle as ``store`` trusts it; raises BundleRefused where it does not."""
    if not isinstance(bundle, Bundle):
        return Bundle.open(bundle, whole=False, trust=store, allow_unsigned=allow_unsigned)
    return bundle if store is None else bundle.held_against(store, allow_unsigned=allow_unsigned)


def trust_flags(bundle: Bundle, variant: Variant) -> tuple[str, ...]:
    """What every prediction says of the signatures; nothing where no trust store was asked."""
    standing, verdict = bundle.standing, bundle.verdict(variant.name)
    if standing is None:
        return ()
    missing = standing.untrusted or (choice.unsigned_verdict(bundle, verdict) if verdict else "")
    if missing:
        _log.warning("%s is used although %s", bundle.path.name, missing)
    return (*((UNSIGNED_FLAG,) if missing else ()), *((CLOCK_FLAG,) if standing.clock_is_behind else ()))


class Chosen(NamedTuple):
    """The variant that runs.

    Attributes:
        variant: of the bundle.
        read: gives the contents of its files, checked; once.
    """

    variant: Variant
    read: Callable[[], list[bytes]]


def choose_variant(bundle: Bundle, backend: str | None, unverified: bool, reads_files: bool = True) -> Chosen:
    """The first variant that may run here; raises BundleRefused with what keeps each from it.

    With ``reads_files`` its files are read and hashed while its engine is imported, which takes about as long.
    """
    passed_over: list[str] = []
    reading: dict[str, Callable[[], list[bytes]]] = {}

    def begin(variant: Variant) -> None:
        reading.clear()  # of one whose engine is not there
        if reads_files:
            reading[variant.name] = Meanwhile(partial(_contents, bundle, variant)).result

    machine = choice.Machine(cpu=read_cpu())
    for variant, reason in choice.incompatibilities(bundle, machine, backend, unverified, begin):
        if not reason:
            _log.info("variant %s (%s) chosen; passed over: %s", variant.name, variant.target, passed_over or "none")
            return Chosen(variant, reading.get(variant.name) or partial(_contents, bundle, variant))
        passed_over.append(f"{variant.name}: {in_one_line(reason)}")
    advice = "" if unverified else _advice(bundle)
    raise BundleRefused(f"{bundle.path.name} has no variant that may run here: {'; '.join(passed_over)}{advice}")


def _advice(bundle: Bundle) -> str:
    """What to do about verdicts that are no pass."""
    verdicts = [bundle.verdict(variant.name) for variant in bundle.manifest.variants]
    outcomes = {verdict.outcome for verdict in verdicts if verdict is not None}
    if "inconclusive" in outcomes:
        return (
            ". Inconclusive is neither pass nor fail, and the report says what was missing: bench it on more cases and "
            f"run the gate again, or say that it may be used without ({choice.UNVERIFIED})"
        )
    return ". The report says which check failed: have another bundle made" if "fail" in outcomes else ""


def _contents(bundle: Bundle, variant: Variant) -> list[bytes]:
    return [bundle.read(name) for name in variant.files]


class Beside(NamedTuple):
    """What a prediction needs beside the network: see `typicality_judge` and `nearest_cases`."""

    judge: TypicalityJudge | None
    nearest: NearestCases | None


def prepare_beside(bundle: Bundle, variant: Variant) -> Beside:
    """Read what a prediction needs beside the network, and import what it will most likely use: for a second thread.

    A bundle that names the DICOM images that it accepts will read DICOM, another one most likely a picture.

    Raises:
        BundleRefused: a member is damaged.
    """
    of_files = _OF_DICOM if bundle.manifest.image_spec.dicom.declares_kind else _OF_OTHER_FILES
    for module in (*_OF_EVERY_IMAGE, *of_files):
        with contextlib.suppress(Exception):  # the prediction says what is wrong with it
            importlib.import_module(module)
    return Beside(typicality_judge(bundle, variant), nearest_cases(bundle))


def typicality_judge(bundle: Bundle, variant: Variant) -> TypicalityJudge | None:
    """What tells whether an image is usual; None where the bundle does not tell. BundleRefused where it is damaged."""
    if bundle.manifest.typicality is msgspec.UNSET:
        return None
    from medfm_compress.runtime.typicality import TypicalityJudge

    return TypicalityJudge(bundle, variant)


def qualify(bundle: Bundle, variant: Variant, session: Session) -> float:
    """Relative logit error on golden cases: on one, or on all of them for an engine that this machine compiled itself.

    Such an engine, if it fails, is forgotten: the next start builds another, which may pass.
    """
    if variant.device == "cpu":
        return goldens.replay_goldens(bundle, variant, session, START_GOLDENS)
    try:
        return goldens.replay_goldens(bundle, variant, session)
    except BundleRefused:
        compiled: Path | None = getattr(session, "compiled", None)
        if compiled is not None:
            compiled.unlink(missing_ok=True)
        raise


def check_columns_of(bundle: Bundle) -> None:
    """What columns are read from must be what may be read, whoever made the bundle."""
    if not bundle.manifest.told:
        return
    from medfm_compress.runtime.dicom.attributes import check_attributes

    try:
        check_attributes(bundle.manifest.told)
    except InputError as exc:
        raise BundleRefused(f"{bundle.path.name}: {exc}") from exc


def check_names(session: Session, manifest: Manifest) -> None:
    """The model file must have the tensors that the manifest says."""
    inputs, outputs = {t.name for t in manifest.inputs}, {t.name for t in manifest.outputs}
    if set(session.input_names) != inputs or set(session.output_names) != outputs:
        raise BundleRefused(
            f"the model has inputs {in_one_line(session.input_names)} and outputs {in_one_line(session.output_names)}; "
            f"its manifest says {in_one_line(sorted(inputs))} and {in_one_line(sorted(outputs))}"
        )
