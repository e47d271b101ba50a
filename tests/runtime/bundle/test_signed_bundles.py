"""Signatures in the archive, releases, and bundles of every schema as the software of its time wrote them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from signing import Signer, make_store, signed_bundle

from medfm_compress.runtime.bundle import archive
from medfm_compress.runtime.bundle.bundle import Bundle, rewrite_bundle, write_bundle
from medfm_compress.runtime.bundle.manifest import MAX_RELEASE, SCHEMA_VERSION, Provenance
from medfm_compress.runtime.bundle.sign import add_signature, set_release
from medfm_compress.runtime.engine import Engine
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.trust.store import TrustStore

STORED = Path(__file__).parent / "stored"
DIGESTS = {  # as the writer of the time computed them
    1: "b024c887950192a762d046ba9344c0df6769de4a2a8825c7ee8ec180b2a65206",
    2: "384d1b2de5813aad63cc566dd2c65bda0d9bb2038f785994e8099a94b1507600",
    3: "bfd3a819e2f5b355d5322186a51bcc6dea1dd22f3f976f2df6d6b136804bd50f",
    4: "eab9afe2ffa9c97114768d4c0759c6abaf5e6cccadd969d633d1079c87d7f854",
    5: "b024c887950192a762d046ba9344c0df6769de4a2a8825c7ee8ec180b2a65206",  # the first with a release, signed twice
    6: "9cb512e73cb937ef9577eb70b7e1307954c1c0fa1246f01cc9a55589a21b8675",  # every rule of DICOM images since then
    7: "a69251a953c92d70f414edc264eb79696b38f214143fe992f61ff0e8c9021b45",  # a segmentation by tiles
    8: "fd3110134421ae133aa56efbffca2f0067e9aa53dc6d0e01dadc20d508408129",  # a classifier that takes columns
}
GIVEN = {8: {"age": 63, "sex": "female", "view": "AP"}}
BUILDER, APPROVER = Signer.make("Build", "builder"), Signer.make("Chief", "approver")


def test_there_is_a_stored_bundle_of_every_schema():
    assert set(DIGESTS) == set(range(1, SCHEMA_VERSION + 1))
    assert {path.name for path in STORED.glob("*.medfm")} == {f"schema{schema}.medfm" for schema in DIGESTS}


@pytest.mark.parametrize("schema", DIGESTS)
def test_a_bundle_of_every_schema_is_read_runs_and_can_be_signed(schema, tmp_path, tiny):
    opened = Bundle.open(STORED / f"schema{schema}.medfm")
    assert opened.manifest.schema_version == schema and opened.model_digest == DIGESTS[schema]
    assert opened.manifest.release_number == (3 if schema == 5 else 0)
    with Engine(STORED / f"schema{schema}.medfm", threads=1) as engine:
        assert engine.verified
        assert engine.predict(tiny.image(), columns=GIVEN.get(schema)).probabilities.keys() == {"opacity"}
    copy = tmp_path / "copy.medfm"
    copy.write_bytes((STORED / f"schema{schema}.medfm").read_bytes())
    store = make_store(tmp_path / "trust", BUILDER, APPROVER)
    with pytest.raises(BundleRefused, match="no trusted builder signed it"):
        Engine(copy, threads=1, trust=store)
    APPROVER.sign(BUILDER.sign(copy))
    assert Bundle.open(copy).signed.manifest == opened.signed.manifest  # byte for byte
    with Engine(copy, threads=1, trust=store) as engine:
        assert engine.verified and engine.predict(tiny.image(), columns=GIVEN.get(schema)).flags == ()


@pytest.mark.parametrize("schema", DIGESTS)
def test_what_is_written_anew_keeps_schema_and_digest(schema, tmp_path):
    sealed = rewrite_bundle(STORED / f"schema{schema}.medfm", tmp_path / "new.medfm")
    assert (sealed.schema_version, sealed.model_digest) == (schema, DIGESTS[schema])
    assert len(sealed.verdicts) == 1


def test_the_stored_signatures_still_hold(tmp_path):
    folder = tmp_path / "trust"  # whatever the mode that a checkout gives
    folder.mkdir(mode=0o755)
    for path in (STORED / "trust").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
        (folder / path.name).chmod(0o644)
    opened = Bundle.open(STORED / "schema5.medfm", trust=TrustStore.open(folder))
    assert {entry.name: entry.state for entry in opened.standing.signatures} == {"Build": "holds", "Chief": "holds"}
    assert all(not opened.standing.unapproved(v.report_sha256, v.policy_sha256) for v in opened.manifest.verdicts)


def test_a_signature_changes_neither_manifest_nor_model(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm")
    before = Bundle.open(path)
    after = Bundle.open(BUILDER.sign(path))
    assert (after.manifest, after.signed.manifest) == (before.manifest, before.signed.manifest)
    assert list(after.signed.signatures) == [f"signatures/{BUILDER.public.key_id}.json"]


def test_signing_twice_replaces_by_key_and_adds_by_another(tiny, tmp_path):
    path = signed_bundle(tiny, tmp_path / "a.medfm", BUILDER, APPROVER)
    once = path.read_bytes()
    BUILDER.sign(path)
    assert path.read_bytes() == once  # Ed25519 has one signature for a key and a statement
    BUILDER.sign(path, signed_at="2026-12-24T00:00:00Z")
    assert path.read_bytes() != once and len(Bundle.open(path).signed.signatures) == 2


def test_whatever_changes_the_manifest_drops_the_signatures(tiny, tmp_path):
    path = signed_bundle(tiny, tmp_path / "a.medfm", BUILDER)
    rewrite_bundle(path, path, provenance=Provenance(teacher="other"))
    assert Bundle.open(path).signed.signatures == {}


def members(path):
    return {entry.name: archive.read_member(path, entry) for entry in archive.read_directory(path)}


def test_a_flipped_byte_in_a_signature_is_refused_without_a_store_too(tiny, tmp_path):
    path = signed_bundle(tiny, tmp_path / "a.medfm", BUILDER)
    data = bytearray(path.read_bytes())
    (entry,) = (entry for entry in archive.read_directory(path) if entry.name.startswith("signatures/"))
    for position in range(entry.start, entry.start + entry.size, 37):
        flipped = bytearray(data)
        flipped[position] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(BundleRefused, match="damaged"):
            Bundle.open(path)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({f"signatures/{n}.json": b"" for n in range(17)}, "17 signatures"),
        ({"signatures/a.json": b" " * (17 << 10)}, "of up to 17408 bytes"),
    ],
)
def test_hostile_signatures_are_refused_before_they_are_read(tiny, tmp_path, extra, words):
    path = tiny.bundle(tmp_path / "a.medfm")
    archive.write_archive(path, members(path) | extra)
    with pytest.raises(BundleRefused, match=words):
        Bundle.open(path)


def test_a_manifest_cannot_list_a_signature(tiny, tmp_path):
    with pytest.raises(InputError, match="lists a member in signatures/"):
        write_bundle(
            tmp_path / "a.medfm", tiny.draft((tiny.ORT,)), tiny.contents((tiny.ORT,)) | {"signatures/a.json": b""}
        )


def test_no_more_than_sixteen_may_sign(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm")
    archive.write_archive(path, members(path) | {f"signatures/{n}.json": b"" for n in range(16)})
    with pytest.raises(InputError, match="all that fit"):
        add_signature(Bundle.open(path), path, "signatures/b.json", b"")


def test_a_release_is_of_schema_5_and_changes_no_model(tiny, tmp_path):
    path = tiny.bundle(tmp_path / "a.medfm")
    before = Bundle.open(path)
    assert before.manifest.release_number == 0 and b'"release"' not in before.signed.manifest
    sealed = set_release(before, path, 7)
    assert (sealed.schema_version, sealed.release_number, sealed.model_digest) == (5, 7, before.model_digest)
    assert sealed.verdicts == before.manifest.verdicts
    with pytest.raises(InputError, match="is signed, and its release is part of what was signed"):
        set_release(Bundle.open(BUILDER.sign(path)), path, 8)


@pytest.mark.parametrize("release", [0, -1, MAX_RELEASE + 1, 1.5, "7", None])
def test_no_other_releases(tiny, tmp_path, release):
    path = tiny.bundle(tmp_path / "a.medfm")
    plain = msgspec.json.decode(Bundle.open(path).signed.manifest) | {"release": release, "schema_version": 5}
    archive.write_archive(path, members(path) | {"manifest.json": msgspec.json.encode(plain)})
    with pytest.raises(BundleRefused, match="release"):
        Bundle.open(path)
