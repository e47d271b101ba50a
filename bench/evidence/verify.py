"""Derive everything in an evidence pack again, from the pack alone.

In this order: the file is whole; report, policy and manifest are of one another; every figure follows from the scores
and times; the verdict follows from the figures; case table, bill of materials and documents say the same; and where a
trust store is asked, a key in it signed the pack, and the bundle's own signatures hold.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from medfm_compress import __version__
from medfm_compress.bench.evidence.bill_of_materials import bill_of_materials
from medfm_compress.bench.evidence.case_table import check_case_csv
from medfm_compress.bench.evidence.derive import Derived, all_libraries, derive, outcomes
from medfm_compress.bench.evidence.figures import count_figures, not_derived
from medfm_compress.bench.evidence.pack_file import (
    BASELINE_REPORT,
    CASES,
    ENVIRONMENT,
    MANIFEST,
    MATERIALS,
    REPORT,
    VERDICT,
    Environment,
    Pack,
    read_pack,
)
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.runtime.errors import BundleRefused, EvidenceRefused, InputError, in_one_line, quoted, refusing
from medfm_compress.runtime.strict_json import decode
from medfm_compress.runtime.trust.clock import is_time
from medfm_compress.runtime.trust.signature import FOLDER, parse_signature
from medfm_compress.runtime.trust.standing import CheckedSignature, Standing, check_signatures
from medfm_compress.runtime.trust.store import TrustStore


class Verified(NamedTuple):
    """A pack from which everything follows again.

    Attributes:
        pack: as read.
        verdict: derived again.
        figures: how many were computed again.
        not_derived: what was taken as it stands.
        standing: of the pack's signatures; None where no trust store was asked.
        bundle: likewise of the bundle's own.
    """

    pack: Pack
    verdict: Verdict
    figures: int
    not_derived: tuple[str, ...]
    standing: Standing | None
    bundle: Standing | None

    @property
    def signed_by(self) -> tuple[CheckedSignature, ...]:
        """The pack's signatures that hold."""
        return tuple(s for s in self.standing.signatures if s.state == "holds") if self.standing else ()

    @property
    def unapproved(self) -> str:
        """Why no trusted approver stands behind the bundle's verdict on this report; empty where one does."""
        index = self.pack.index
        return self.bundle.unapproved(index.report_sha256, index.policy_sha256) if self.bundle else "no store was asked"


def verify_pack(path: Path, trust: TrustStore | None = None) -> Verified:
    """Verify the pack at ``path``.

    Raises:
        EvidenceRefused: damaged, incomplete, a figure does not follow (the sentence says which), or no trusted key
            signed it.
        InputError: the file cannot be read.
    """
    pack = read_pack(path)
    try:
        with refusing(EvidenceRefused, f"{in_one_line(path.name)} cannot be verified"):
            return _verify(pack, trust)
    except BundleRefused as exc:  # of its signatures
        raise EvidenceRefused(str(exc)) from None


def _verify(pack: Pack, trust: TrustStore | None) -> Verified:
    path = pack.path
    derived = _derived(pack)
    _check_index(pack, derived)
    _check_verdict(pack, derived.decision.verdict)
    environment = _checked_environment(pack, derived.decision.report)
    check_case_csv(pack.members[CASES], derived.decision.report, path.name)
    libraries = all_libraries(derived.manifest, environment)
    _check_text(pack, MATERIALS, bill_of_materials(derived.manifest, libraries, pack.index.created))
    unmade = _check_documents(pack, derived)
    for name, content in _signatures_of_bundle(pack).items():
        parse_signature(name, content, f"{path.name}: its bundle")
    standing = _signed(pack, trust) if trust else None
    bundle = _bundle_standing(pack, trust) if trust else None
    report = derived.decision.report
    taken = (*not_derived(report), *_said(pack), *unmade)
    return Verified(pack, derived.decision.verdict, count_figures(report), taken, standing, bundle)


def _derived(pack: Pack) -> Derived:
    try:
        return derive(pack.members)
    except InputError as exc:
        raise EvidenceRefused(f"{pack.path.name}: {exc}") from None


def _check_index(pack: Pack, derived: Derived) -> None:
    verdict, index = derived.decision.verdict, pack.index
    if not is_time(index.created):
        raise EvidenceRefused(f"{pack.path.name}: created is {quoted(index.created)}, which is no time to the second")
    said = {
        "bundle_name": (index.bundle_name, derived.manifest.name),
        "model_digest": (index.model_digest, derived.manifest.model_digest),
        "policy_sha256": (index.policy_sha256, verdict.policy_sha256),
        "report_sha256": (index.report_sha256, hashlib.sha256(pack.members[REPORT]).hexdigest()),
        "outcome": (index.outcome, verdict.outcome),
    }
    for name, (was, now) in said.items():
        if was != now:
            raise EvidenceRefused(f"{pack.path.name}: {name} is {was} in its index, and {now} follows")


def _check_verdict(pack: Pack, verdict: Verdict) -> None:
    stored = decode(pack.members[VERDICT], Verdict, source=f"{pack.path.name}: {VERDICT}", error=EvidenceRefused)
    was, now = outcomes(stored), outcomes(verdict)
    for variant, check in [*now, *was]:
        if was.get((variant, check)) != now.get((variant, check)):
            what = " of ".join(filter(None, (check, variant))) or "the verdict"
            raise EvidenceRefused(
                f"{pack.path.name}: {what} is {was.get((variant, check), 'not')} in {VERDICT}, and "
                f"{now.get((variant, check), 'nothing')} follows"
            )


def _checked_environment(pack: Pack, report: Report) -> Environment:
    source = f"{pack.path.name}: {ENVIRONMENT}"
    environment = decode(pack.members[ENVIRONMENT], Environment, source=source, error=EvidenceRefused)
    if environment.measured_on != report.machine:
        raise EvidenceRefused(f"{source} is not the machine that {REPORT} was measured on")
    return environment


def _check_documents(pack: Pack, derived: Derived) -> tuple[str, ...]:
    """Documents are rendered again by the version that wrote them; another one may word them otherwise."""
    if pack.index.software != __version__:
        return (f"wording of the documents (written by version {pack.index.software}, this is {__version__})",)
    for name, content in derived.documents.items():
        _check_text(pack, name, content)
    return ()


def _check_text(pack: Pack, name: str, content: bytes) -> None:
    written = pack.members.get(name, b"")
    if written != content:
        line = _first_difference(written, content)
        raise EvidenceRefused(f"{pack.path.name}: {name} is not what follows from the pack, from line {line} on")


def _first_difference(was: bytes, now: bytes) -> int:
    pairs = zip(was.split(b"\n"), now.split(b"\n"), strict=False)
    return next((number for number, (a, b) in enumerate(pairs, start=1) if a != b), 1)


def _signed(pack: Pack, trust: TrustStore) -> Standing:
    """What the pack's signatures are worth; any trusted key may sign one, whatever its role."""
    source = pack.path.name
    standing = check_signatures(trust, "evidence pack", pack.raw_index, pack.signatures, source=source, lenient=True)
    if not any(entry.state == "holds" for entry in standing.signatures):
        reasons = "; ".join(entry.reason for entry in standing.signatures) or "nobody signed it"
        raise EvidenceRefused(f"{source}: no trusted key stands behind it: {reasons}")
    return standing


def _said(pack: Pack) -> tuple[str, ...]:
    """What nothing in the pack could contradict."""
    baseline = ("scores and times in the baseline's report",) if BASELINE_REPORT in pack.members else ()
    return (*baseline, "the machine that packed and its libraries, the maker's own text on limits")


def _signatures_of_bundle(pack: Pack) -> dict[str, bytes]:
    prefix = f"bundle/{FOLDER}"
    return {name.removeprefix("bundle/"): c for name, c in pack.members.items() if name.startswith(prefix)}


def _bundle_standing(pack: Pack, trust: TrustStore) -> Standing:
    source, signatures = f"{pack.path.name}: its bundle", _signatures_of_bundle(pack)
    return check_signatures(trust, "bundle", pack.members[MANIFEST], signatures, source=source, lenient=True)
