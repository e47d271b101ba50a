"""The file of an evidence pack: ``index.json``, the members that it lists with size and sha256, and signatures.

Laid out as a bundle is (`runtime.bundle.archive`: stored, one possible layout). A signature is made of the index's
bytes and stands in ``signatures/``, in no list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from medfm_compress.bench.measure.machine import Machine
from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.bundle.manifest import Member, Outcome
from medfm_compress.runtime.errors import EvidenceRefused, InputError, MedfmError, in_one_line, refusing
from medfm_compress.runtime.strict_json import decode, encode
from medfm_compress.runtime.trust.signature import FOLDER, MAX_SIGNATURE_BYTES, MAX_SIGNATURES

SCHEMA_VERSION = 1
INDEX = "index.json"
REPORT, POLICY, VERDICT, CASES = "report.json", "policy.yaml", "verdict.json", "cases.csv"
MANIFEST = "bundle/manifest.json"
BASELINE_REPORT, BASELINE_MANIFEST = "baseline/report.json", "baseline/manifest.json"
ENVIRONMENT, MATERIALS, LIMITS = "environment.json", "bom.cdx.json", "limits.md"
CARD, PLAN, CHANGE = "model-card.md", "change-control-plan.md", "change-report.md"
ALWAYS = (REPORT, POLICY, VERDICT, CASES, MANIFEST, ENVIRONMENT, MATERIALS, CARD, PLAN)
MAY = (LIMITS, BASELINE_REPORT, BASELINE_MANIFEST, CHANGE)
_MAX_INDEX_BYTES = 1 << 20
_MAX_MEMBER_BYTES = 1 << 30


class Index(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the pack is about, and everything in it.

    Attributes:
        schema_version: of this file.
        software: version of medfm-compress that wrote it.
        created: ISO 8601, UTC.
        bundle_name: from the manifest.
        model_digest: of the bundle.
        report_sha256: of the report.
        policy_sha256: of the policy file.
        outcome: of the verdict.
        members: every other file but signatures.
    """

    schema_version: int
    software: str
    created: str
    bundle_name: str
    model_digest: str
    report_sha256: str
    policy_sha256: str
    outcome: Outcome
    members: tuple[Member, ...]


class Environment(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The machine that made the measurements, and the one that wrote the pack, whose load is of no interest."""

    measured_on: Machine
    packed_on: Machine


@dataclass(frozen=True)
class Pack:
    """A pack as read, every hash checked.

    Attributes:
        path: of the file.
        index: decoded.
        raw_index: the bytes that signatures are made of.
        members: path → content.
        signatures: member → content, unchecked.
    """

    path: Path
    index: Index
    raw_index: bytes
    members: dict[str, bytes]
    signatures: dict[str, bytes]


def make_index(draft: Index, members: Mapping[str, bytes]) -> bytes:
    """The index's bytes, with ``members`` listed in order of their names."""
    listed = tuple(
        Member(path=name, bytes=len(members[name]), sha256=hashlib.sha256(members[name]).hexdigest())
        for name in sorted(members)
    )
    return encode(msgspec.structs.replace(draft, members=listed))


def write_pack(path: Path, index: bytes, members: Mapping[str, bytes], signatures: Mapping[str, bytes]) -> None:
    """Write a pack atomically; raises InputError where it cannot be written."""
    parts = [(name, members[name]) for name in sorted(members)]
    archive.write_archive(path, dict([(INDEX, index), *parts, *sorted(signatures.items())]))


def read_pack(path: Path) -> Pack:
    """Read a pack, its layout and every hash checked.

    Raises:
        EvidenceRefused: damaged, altered, too new, or a member is missing.
        InputError: the file cannot be read.
    """
    try:
        with refusing(EvidenceRefused, f"{in_one_line(path.name)} cannot be opened"):
            return _read(path)
    except InputError as exc:
        raise InputError(str(exc).replace("bundle", "pack").replace("a .medfm file", "an evidence pack")) from None
    except EvidenceRefused:
        raise
    except MedfmError as exc:  # of the archive
        raise EvidenceRefused(str(exc).replace("bundle", "pack")) from None


def _read(path: Path) -> Pack:
    entries = archive.read_directory(path)
    if entries[0].name != INDEX or entries[0].size > _MAX_INDEX_BYTES:
        raise EvidenceRefused(f"{path.name} is no evidence pack: it does not start with {INDEX}")
    raw = archive.read_member(path, entries[0])
    index = _decode_index(raw, path.name)
    signed = {entry.name: entry for entry in entries if entry.name.startswith(FOLDER)}
    if len(signed) > MAX_SIGNATURES or any(entry.size > MAX_SIGNATURE_BYTES for entry in signed.values()):
        raise EvidenceRefused(f"{path.name} has more or larger signatures than any pack")
    present = {entry.name: entry for entry in entries[1:] if entry.name not in signed}
    _check_names(index, present, path.name)
    members = {member.path: _checked(path, member, present[member.path]) for member in index.members}
    return Pack(path, index, raw, members, {name: archive.read_member(path, entry) for name, entry in signed.items()})


def _decode_index(raw: bytes, name: str) -> Index:
    index = decode(raw, Index, source=f"{name}: {INDEX}", error=EvidenceRefused)
    if index.schema_version != SCHEMA_VERSION:
        raise EvidenceRefused(
            f"{name} has pack schema {index.schema_version}, this version reads {SCHEMA_VERSION}; use the "
            "medfm-compress that wrote it"
        )
    return index


def _check_names(index: Index, present: Mapping[str, archive.Entry], name: str) -> None:
    listed = {member.path for member in index.members}
    for missing in [*(wanted for wanted in ALWAYS if wanted not in listed), *sorted(listed - present.keys())]:
        raise EvidenceRefused(f"{name} lacks {missing}; ask for a whole pack")
    pairs = (BASELINE_REPORT, BASELINE_MANIFEST, CHANGE)
    if any(part in listed for part in pairs) and not listed.issuperset(pairs):
        missing = next(part for part in pairs if part not in listed)
        raise EvidenceRefused(f"{name} lacks {missing}; ask for a whole pack")
    for odd in sorted((present.keys() | listed) - {*ALWAYS, *MAY}):
        if odd not in listed or not odd.startswith(f"bundle/{FOLDER}"):
            raise EvidenceRefused(f"{name} holds {in_one_line(odd)}, which no pack does")


def _checked(path: Path, member: Member, entry: archive.Entry) -> bytes:
    if not entry.size == member.bytes <= _MAX_MEMBER_BYTES:
        raise EvidenceRefused(f"{path.name}: {member.path} has {entry.size} bytes, not the {member.bytes} listed")
    content = archive.read_content(path, entry)
    if hashlib.sha256(content).hexdigest() != member.sha256:
        raise EvidenceRefused(f"{path.name}: {member.path} does not match its sha256; ask for the pack again")
    return content
