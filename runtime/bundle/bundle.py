"""`Bundle`: the one file that ships. Written whole or not at all; read with every byte accounted for.

A bundle is an `archive` of ``manifest.json`` and the members that it lists with size and sha256. ``model_digest`` is
the sha256 of the canonical JSON of task, image spec, tensors, variants, and the hashes of the variants' files and
goldens; it is taken from the JSON as stored, so that a later reader whose types have more (defaulted) fields finds
the same digest.

Signatures stand behind all other members, ``signatures/<key id>.json``, and in no list: they are made of the manifest's
bytes, which list everything else. They are checked before the manifest is decoded, where a trust store is given.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.bundle.manifest import (
    NEAREST,
    SCHEMA_VERSION,
    Manifest,
    Member,
    Provenance,
    StoredVerdict,
    Variant,
    schema_of,
)
from medfm_compress.runtime.bundle.task_contradiction import task_contradiction
from medfm_compress.runtime.errors import BundleRefused, InputError, in_one_line, quoted, refusing
from medfm_compress.runtime.strict_json import decode, digest, encode
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.trust.signature import FOLDER, MAX_SIGNATURE_BYTES, MAX_SIGNATURES
from medfm_compress.runtime.trust.standing import Standing, check_signatures
from medfm_compress.runtime.trust.store import TrustStore

MANIFEST = "manifest.json"
GOLDEN_INPUTS = "goldens/inputs.npy"
NEAREST_CASES = "nearest/cases.npy"
MAX_MANIFEST_BYTES = 4 << 20

_DIGESTED = ("task", "image_spec", "inputs", "outputs", "variants")
_DIGESTED_IF_SET = ("typicality", "columns")  # of later schemas, so that older digests stay what they are


class _SchemaOnly(msgspec.Struct, frozen=True):
    schema_version: int


class Signed(NamedTuple):
    """The bytes that signatures are made of and that the manifest was decoded from, and the signatures by member."""

    manifest: bytes
    signatures: dict[str, bytes]


class Bundle:
    """A verified bundle: its manifest, and its members on demand (checked each time they are read).

    Nothing is extracted and no file is kept open; a bundle that is replaced on disk while it is in use is refused at
    the next read. ``standing`` is what its signatures are worth; None where no trust store was asked.
    """

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        entries: Mapping[str, archive.Entry],
        signed: Signed,
        standing: Standing | None = None,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.signed = signed
        self.standing = standing
        self._entries = entries

    @classmethod
    def open(
        cls, path: str | Path, *, whole: bool = True, trust: TrustStore | None = None, allow_unsigned: bool = False
    ) -> Bundle:
        """Open and verify the bundle at ``path``: layout, schema, manifest, sha256 of every member, model digest.

        Args:
            path: of the ``.medfm`` file.
            whole: hash every member now. Without it a member is hashed when it is read, so that a device does not wait
                for variants that it will not run; nothing that was not hashed is ever given out either way.
            trust: the keys of which one must have signed it. Without it signatures are read and not checked.
            allow_unsigned: with ``trust``, forgive that no trusted key signed it, but not that it was edited since.

        Raises:
            BundleRefused: damaged, altered, too new, its parts contradict each other, or no trusted key signed it.
            InputError: the file cannot be read.
        """
        path = Path(path)
        with refusing(BundleRefused, f"{in_one_line(path.name)} cannot be opened"):
            return cls._open(path, whole, trust, allow_unsigned)

    @classmethod
    def _open(cls, path: Path, whole: bool, trust: TrustStore | None, allow_unsigned: bool) -> Bundle:
        entries = archive.read_directory(path)
        signed = Signed(_read_manifest(path, entries), _read_signatures(path, entries))
        standing = None if trust is None else _standing_of(signed, trust, path.name, allow_unsigned)
        manifest = _decode_manifest(signed.manifest, path.name)
        bundle = cls(path, manifest, {entry.name: entry for entry in entries}, signed, standing)
        bundle._verify_parts()
        if whole:
            bundle._verify_members()
        if model_digest(msgspec.json.decode(signed.manifest)) != manifest.model_digest:
            raise BundleRefused(f"{path.name}: the model digest does not match the manifest; fetch the bundle again")
        return bundle

    def held_against(self, trust: TrustStore, *, allow_unsigned: bool = False) -> Bundle:
        """This bundle with what its signatures are worth to ``trust``; raises BundleRefused like `open`."""
        standing = _standing_of(self.signed, trust, self.path.name, allow_unsigned)
        return Bundle(self.path, self.manifest, self._entries, self.signed, standing)

    def read(self, member: str) -> bytes:
        """Content of ``member``, its sha256 checked against the manifest.

        Raises:
            BundleRefused: the content changed since the bundle was opened.
            InputError: no such member.
        """
        sha256 = self.sha256(member)
        content = archive.read_content(self.path, self._entries[member])
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BundleRefused(f"{self.path.name}: {member} does not match its sha256; copy the bundle again")
        return content

    def sha256(self, member: str) -> str:
        """Hex sha256 that the content of ``member`` must have; raises InputError where there is no such member."""
        for known in self.manifest.members:
            if known.path == member:
                return known.sha256
        raise InputError(f"{self.path.name} has no member {member!r}; it has {sorted(self._entries)}")

    def variant(self, name: str) -> Variant:
        """The variant called ``name``; raises InputError with the names there are."""
        for variant in self.manifest.variants:
            if variant.name == name:
                return variant
        names = ", ".join(variant.name for variant in self.manifest.variants)
        raise InputError(f"{self.path.name} has no variant {name!r}; it has {names}")

    def variant_bytes(self, variant: Variant) -> int:
        """Size in bytes of the files that ``variant`` needs."""
        return sum(member.bytes for member in self.manifest.members if member.path in variant.files)

    def verdict(self, variant: str) -> StoredVerdict | None:
        """The verdict that stands for ``variant``: the last recorded one that cites this model digest."""
        mine = [v for v in self.manifest.verdicts if v.variant == variant and v.model_digest == self.model_digest]
        return mine[-1] if mine else None

    @property
    def model_digest(self) -> str:
        """Of the manifest; checked when the bundle was opened."""
        return self.manifest.model_digest

    def _verify_parts(self) -> None:
        name = self.path.name
        listed = {member.path for member in self.manifest.members}
        for odd in sorted(listed ^ (self._entries.keys() - {MANIFEST} - self.signed.signatures.keys())):
            state = "is listed in the manifest and missing" if odd in listed else "is not listed in the manifest"
            raise BundleRefused(f"{name}: member {quoted(odd)} {state}")
        reason = contradiction(self.manifest)
        if reason:
            raise BundleRefused(f"{name}: {in_one_line(reason)}")
        for member in self.manifest.members:
            if self._entries[member.path].size != member.bytes:
                raise BundleRefused(f"{name}: {member.path} does not match its listed size; copy the bundle again")

    def _verify_members(self) -> None:
        with archive.open_archive(self.path) as file:
            for member in self.manifest.members:
                sha256 = hashlib.sha256()
                for chunk in archive.chunks(file, self._entries[member.path]):
                    sha256.update(chunk)
                if sha256.hexdigest() != member.sha256:
                    raise BundleRefused(
                        f"{self.path.name}: {member.path} does not match its sha256; copy the bundle again"
                    )


def write_bundle(path: str | Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Seal ``manifest`` over ``files`` and write the bundle atomically; byte-identical for identical arguments.

    Args:
        path: of the new file, usually ``*.medfm``.
        manifest: a draft; its ``schema_version``, ``members`` and ``model_digest`` are filled in here.
        files: member path → content: every variant's files, ``goldens/inputs.npy`` and ``goldens/<variant>.npy``,
            and whatever aggregate report goes with it.

    Returns:
        The manifest as written.

    Raises:
        InputError: the parts contradict each other, or the file cannot be written.
    """
    if MANIFEST in files:
        raise InputError(f"{MANIFEST} is written by write_bundle; leave it out of files")
    sealed = _seal(manifest, files)
    raw = encode(sealed)
    if len(raw) > MAX_MANIFEST_BYTES:
        raise InputError(f"the manifest has {len(raw)} bytes; at most {MAX_MANIFEST_BYTES} are read back")
    archive.write_archive(path, {MANIFEST: raw} | {name: files[name] for name in sorted(files)})
    return sealed


def rewrite_bundle(
    source: str | Path | Bundle,
    path: str | Path,
    *,
    variants: tuple[Variant, ...] | None = None,
    files: Mapping[str, bytes] | None = None,
    verdicts: Iterable[StoredVerdict] = (),
    provenance: Provenance | None = None,
    task: Task | None = None,
) -> Manifest:
    """Write a copy of ``source`` with parts replaced; ``path`` may be the source itself.

    Args:
        source: an existing bundle.
        path: of the new file.
        variants: all variants of the new bundle, fastest first; files of dropped ones are left out.
        files: members added or replaced.
        verdicts: each replaces what was said of the same variant. Verdicts that do not cite the new bundle's model
            digest are void and left out.
        provenance: replaces the source's.
        task: replaces the source's, e.g. with operating points.

    Raises:
        BundleRefused: the source cannot be opened.
        InputError: a verdict cites another model, the parts contradict each other, or the file cannot be written.
    """
    bundle = source if isinstance(source, Bundle) else Bundle.open(source)
    old = bundle.manifest
    draft = msgspec.structs.replace(
        old,
        variants=old.variants if variants is None else variants,
        provenance=provenance or old.provenance,
        task=task or old.task,
        verdicts=(),
    )
    dropped = _model_files(old.variants) - _model_files(draft.variants)
    gone = {variant.name for variant in old.variants} - {variant.name for variant in draft.variants}
    dropped |= {typicality_member(name) for name in gone}
    kept = {m.path: bundle.read(m.path) for m in old.members if m.path not in dropped and m.path not in (files or {})}
    contents = {**kept, **(files or {})}
    return write_bundle(
        path, msgspec.structs.replace(draft, verdicts=_standing_verdicts(old, draft, contents, verdicts)), contents
    )


def model_digest(manifest: Mapping[str, Any]) -> str:
    """Digest of the model that ``manifest`` (plain JSON data, members filled in) describes, 64 hex digits."""
    model = {key: manifest[key] for key in (*_DIGESTED, *(key for key in _DIGESTED_IF_SET if key in manifest))}
    names = {file for variant in manifest["variants"] for file in variant["files"]}
    if "typicality" in model:
        names |= {name for name in (member["path"] for member in manifest["members"]) if is_typicality_member(name)}
    names |= {GOLDEN_INPUTS, NEAREST_CASES} | {golden_member(variant["name"]) for variant in manifest["variants"]}
    model["files"] = {member["path"]: member["sha256"] for member in manifest["members"] if member["path"] in names}
    return digest(model)


def golden_member(variant: str) -> str:
    """Member path of the golden logits of the variant called ``variant``."""
    return f"goldens/{variant}.npy"


def typicality_member(name: str) -> str:
    """Path of a member that typicality needs: its statistics, or the scores of the variant called ``name``."""
    return f"typicality/{name}.npy"


def is_typicality_member(path: str) -> bool:
    """Whether ``path`` is one of `typicality_member`."""
    return path.startswith("typicality/")


def utc_date() -> str:
    """Now in UTC, ISO 8601 to the second; the time in ``SOURCE_DATE_EPOCH`` where that is set.

    Raises:
        InputError: ``SOURCE_DATE_EPOCH`` is not a whole number of seconds.
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        seconds = int(epoch) if epoch else int(time.time())
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        raise InputError(f"SOURCE_DATE_EPOCH is {epoch!r}; it must be whole seconds since 1970") from None


def contradiction(manifest: Manifest) -> str:
    """What is wrong between the parts of ``manifest``, as one sentence; empty where nothing is."""
    members = [member.path for member in manifest.members]
    variants = [variant.name for variant in manifest.variants]
    if len(set(members)) != len(members):
        return "the manifest lists a member twice"
    if any(path.startswith(FOLDER) for path in members):
        return f"the manifest lists a member in {FOLDER}, where signatures of the manifest stand"
    if not variants or len(set(variants)) != len(variants):
        return f"its variants are {variants}; there must be at least one, each with a name of its own"
    needed = _model_files(manifest.variants) | {GOLDEN_INPUTS}
    if manifest.typicality is not msgspec.UNSET:
        needed |= {typicality_member(name) for name in variants}
    needed |= {NEAREST_CASES} if manifest.output(NEAREST) is not None else set()
    missing = sorted(needed - set(members))
    if missing:
        return f"its variants need {missing[0]!r}, which is not among its members"
    strangers = sorted({verdict.variant for verdict in manifest.verdicts} - set(variants))
    if strangers:
        return f"a verdict names variant {strangers[0]!r}, which it does not have"
    return task_contradiction(manifest)


def _model_files(variants: Iterable[Variant]) -> set[str]:
    return {file for variant in variants for file in (*variant.files, golden_member(variant.name))}


def _seal(draft: Manifest, files: Mapping[str, bytes]) -> Manifest:
    members = tuple(
        Member(path=name, bytes=len(files[name]), sha256=hashlib.sha256(files[name]).hexdigest())
        for name in sorted(files)
    )
    sealed = msgspec.structs.replace(draft, schema_version=schema_of(draft), members=members)
    reason = contradiction(sealed)
    if reason:
        raise InputError(f"bundle {draft.name!r}: {reason}")
    return msgspec.structs.replace(sealed, model_digest=model_digest(msgspec.to_builtins(sealed)))


def _standing_verdicts(
    old: Manifest, draft: Manifest, files: Mapping[str, bytes], new: Iterable[StoredVerdict]
) -> tuple[StoredVerdict, ...]:
    """Verdicts of the rewritten bundle: the new ones, and the old ones that still hold."""
    current = _seal(draft, files).model_digest
    new = tuple(new)
    for verdict in new:
        if verdict.model_digest != current:
            raise InputError(f"the verdict on {verdict.variant!r} cites another model; run the gate on this bundle")
    judged = {verdict.variant for verdict in new}
    held = [v for v in old.verdicts if v.model_digest == current and v.variant not in judged]
    return (*held, *new)


def _read_manifest(path: Path, entries: tuple[archive.Entry, ...]) -> bytes:
    if entries[0].name != MANIFEST or entries[0].size > MAX_MANIFEST_BYTES:
        raise BundleRefused(f"{path.name} does not start with a {MANIFEST} of at most {MAX_MANIFEST_BYTES} bytes")
    return archive.read_member(path, entries[0])


def _read_signatures(path: Path, entries: tuple[archive.Entry, ...]) -> dict[str, bytes]:
    """Member → content; who made them, and whether they are any, is not known yet."""
    found = [entry for entry in entries if entry.name.startswith(FOLDER)]
    if len(found) > MAX_SIGNATURES or any(entry.size > MAX_SIGNATURE_BYTES for entry in found):
        raise BundleRefused(
            f"{path.name} has {len(found)} signatures of up to {max(entry.size for entry in found)} bytes; at most "
            f"{MAX_SIGNATURES} of {MAX_SIGNATURE_BYTES} are read"
        )
    return {entry.name: archive.read_member(path, entry) for entry in found}


def _standing_of(signed: Signed, trust: TrustStore, name: str, allow_unsigned: bool) -> Standing:
    return check_signatures(
        trust, "bundle", signed.manifest, signed.signatures, source=in_one_line(name), lenient=allow_unsigned
    )


def _decode_manifest(raw: bytes, name: str) -> Manifest:
    schema = decode(raw, _SchemaOnly, source=f"{name}: {MANIFEST}", error=BundleRefused).schema_version
    if schema > SCHEMA_VERSION:
        raise BundleRefused(
            f"{name} was made by a newer medfm-compress (schema {schema}; this one reads {SCHEMA_VERSION}): upgrade"
        )
    if schema < 1:
        raise BundleRefused(f"{name} has schema {schema}, which never existed; fetch the bundle again")
    return decode(raw, Manifest, source=f"{name}: {MANIFEST}", error=BundleRefused)
