"""What stands between a bundle and its first answer: trust, the choice of a variant, its tensors, its golden cases."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from medfm_compress.runtime import golden_cases as goldens
from medfm_compress.runtime import variant_selection as choice
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Manifest, Variant
from medfm_compress.runtime.cpu import read_cpu
from medfm_compress.runtime.errors import BundleRefused, InputError, in_one_line
from medfm_compress.runtime.sessions.protocol import Session
from medfm_compress.runtime.trust.store import TrustStore

if TYPE_CHECKING:
    from medfm_compress.runtime.typicality import TypicalityJudge

UNSIGNED_FLAG = "unsigned-bundle"
CLOCK_FLAG = "clock-is-wrong"
START_GOLDENS = 1
"""Golden cases replayed at the start: one already passes through every operator; ``inspect --verify`` replays all."""

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


def choose_variant(bundle: Bundle, backend: str | None, unverified: bool) -> Variant:
    """The first variant that may run here; raises BundleRefused with what keeps each from it."""
    passed_over: list[str] = []
    for variant, reason in choice.incompatibilities(bundle, choice.Machine(cpu=read_cpu()), backend, unverified):
        if not reason:
            _log.info("variant %s (%s) chosen; passed over: %s", variant.name, variant.target, passed_over or "none")
            return variant
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
            "run the gate again, or say that it may be used without (--unverified)"
        )
    return ". The report says which check failed: have another bundle made" if "fail" in outcomes else ""


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
