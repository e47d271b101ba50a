"""Write an evidence pack from a bundle, its report and its policy."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from medfm_compress import __version__
from medfm_compress.bench.evidence.bill_of_materials import bill_of_materials
from medfm_compress.bench.evidence.case_table import SALT_BYTES, case_csv, case_ids
from medfm_compress.bench.evidence.derive import all_libraries, derive
from medfm_compress.bench.evidence.pack_file import (
    BASELINE_MANIFEST,
    BASELINE_REPORT,
    CASES,
    ENVIRONMENT,
    LIMITS,
    MANIFEST,
    MATERIALS,
    POLICY,
    REPORT,
    SCHEMA_VERSION,
    Environment,
    Index,
    make_index,
    write_pack,
)
from medfm_compress.bench.measure.machine import describe_machine
from medfm_compress.bench.report import MAX_REPORT_BYTES, parse_report
from medfm_compress.data.open import open_study_of
from medfm_compress.data.strict_yaml import MAX_YAML_BYTES
from medfm_compress.runtime.bundle.bundle import Bundle, utc_date
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.strict_json import encode
from medfm_compress.runtime.trust.signature import Statement, sign

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_LIMITS_BYTES = 1 << 20


class PackRequest(NamedTuple):
    """What a pack is made of.

    Attributes:
        bundle: whose verdict it shows.
        report: that the verdict cites.
        policy: likewise.
        study: that was benched, whose case keys are hashed; without it positions are.
        limits: the maker's own text on training data and limits, Markdown.
        baseline: bundle and report of the bundle before.
        salt: of the hashes; a new one where it is empty.
    """

    bundle: Path
    report: Path
    policy: Path
    study: Path | None = None
    limits: Path | None = None
    baseline: tuple[Path, Path] | None = None
    salt: bytes = b""


@dataclass(frozen=True)
class Packed:
    """What was written: the index, and the salt, which must stay at home."""

    index: Index
    salt: bytes


def pack_evidence(request: PackRequest, out: Path, private: Ed25519PrivateKey) -> Packed:
    """Write the pack to ``out``, signed.

    Raises:
        InputError: parts that are not of one another, a figure that does not follow, or a file that cannot be written.
        BundleRefused: a bundle that is damaged.
    """
    sources = _sources(request)
    derived = derive(sources)
    created, salt = utc_date(), request.salt or secrets.token_bytes(SALT_BYTES)
    report = parse_report(sources[REPORT], source=REPORT)
    study = open_study_of(report.task, request.study) if request.study else None
    ids = case_ids(report, salt, study)
    here = replace(describe_machine(), load_average=-1.0)  # nothing is timed here
    environment = Environment(measured_on=report.machine, packed_on=here)
    members = {
        **sources,
        **derived.documents,
        CASES: case_csv(report, ids),
        ENVIRONMENT: encode(environment),
        MATERIALS: bill_of_materials(derived.manifest, all_libraries(derived.manifest, environment), created),
    }
    draft = Index(
        schema_version=SCHEMA_VERSION,
        software=__version__,
        created=created,
        bundle_name=derived.manifest.name,
        model_digest=derived.manifest.model_digest,
        report_sha256=hashlib.sha256(sources[REPORT]).hexdigest(),
        policy_sha256=derived.decision.verdict.policy_sha256,
        outcome=derived.decision.verdict.outcome,
        members=(),
    )
    index = make_index(draft, members)
    statement = Statement(signed_sha256=hashlib.sha256(index).hexdigest(), signed_at=created)
    write_pack(out, index, members, dict([sign(private, "evidence pack", statement)]))
    return Packed(draft, salt)


def _sources(request: PackRequest) -> dict[str, bytes]:
    bundle = Bundle.open(request.bundle)
    sources = {
        REPORT: read_regular(request.report, MAX_REPORT_BYTES, "the report"),
        POLICY: read_regular(request.policy, MAX_YAML_BYTES, "the policy"),
        MANIFEST: bundle.signed.manifest,
        **{f"bundle/{name}": content for name, content in bundle.signed.signatures.items()},
    }
    if request.limits:
        sources[LIMITS] = read_regular(request.limits, MAX_LIMITS_BYTES, "the text on limits")
    if request.baseline:
        sources[BASELINE_MANIFEST] = Bundle.open(request.baseline[0]).signed.manifest
        sources[BASELINE_REPORT] = read_regular(request.baseline[1], MAX_REPORT_BYTES, "the baseline's report")
    return sources
