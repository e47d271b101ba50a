"""What signatures are worth: by whom, of what, until when."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from signing import LATER, SIGNED_AT, Signer, make_store

from medfm_compress.runtime.errors import BundleRefused
from medfm_compress.runtime.strict_json import encode
from medfm_compress.runtime.trust import standing as standings
from medfm_compress.runtime.trust.signature import Cited, Signature, Statement, sign
from medfm_compress.runtime.trust.standing import check_signatures
from medfm_compress.runtime.trust.store import TrustStore
from medfm_compress.runtime.trust.store_changes import remove_key

FILE = b'{"a manifest": 1}'
ZEROS = f"signatures/{'0' * 64}.json"
SEEN = Cited(report_sha256="1" * 64, policy_sha256="2" * 64)
BUILDER, APPROVER = Signer.make("Build", "builder"), Signer.make("Chief", "approver")


def signature(signer, file=FILE, *, purpose="bundle", signed_at=SIGNED_AT, cited=()):
    digest = hashlib.sha256(file).hexdigest()
    return sign(signer.private, purpose, Statement(signed_sha256=digest, signed_at=signed_at, cited=cited))


def check(store, *signatures, file=FILE, lenient=False):
    return check_signatures(store, "bundle", file, dict(signatures), source="b.medfm", lenient=lenient)


def refusal(store, *signatures, **options):
    with pytest.raises(BundleRefused) as info:
        check(store, *signatures, **options)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.fixture
def store(tmp_path):
    return TrustStore.open(make_store(tmp_path / "trust", BUILDER, APPROVER))


def test_a_builder_and_an_approver(store):
    standing = check(store, signature(BUILDER), signature(APPROVER, cited=(SEEN,)))
    assert standing.untrusted == "" and standing.unapproved("1" * 64, "2" * 64) == ""
    assert "another report or policy" in standing.unapproved("1" * 64, "3" * 64)
    assert "another report or policy" in standing.unapproved("3" * 64, "2" * 64)
    assert {entry.name for entry in standing.holding("builder")} == {"Build"} and not standing.clock_is_behind


def test_a_builder_approves_nothing_and_an_approver_builds_nothing(store):
    standing = check(store, signature(BUILDER, cited=(SEEN,)))
    assert standing.unapproved("1" * 64, "2" * 64) == "no trusted approver signed it"
    assert "no trusted builder signed it" in refusal(store, signature(APPROVER, cited=(SEEN,)))


def test_unsigned_and_unknown_are_refused_and_forgiven_in_a_lab(store):
    assert "no trusted builder signed it; have it signed" in refusal(store)
    stranger = Signer.make("Build", "builder")
    assert f"not in the trust store ({stranger.public.key_id[:16]})" in refusal(store, signature(stranger))
    assert check(store, lenient=True).untrusted and check(store, signature(stranger), lenient=True).untrusted


@pytest.mark.parametrize("lenient", [False, True])
def test_an_edited_file_is_refused_even_in_a_lab(store, lenient):
    words = "the signature of 'Build' does not fit it: it was edited"
    assert words in refusal(store, signature(BUILDER), file=FILE + b" ", lenient=lenient)
    name, content = signature(BUILDER)
    forged = msgspec.json.decode(content, type=Signature)
    other = forged.statement.replace(hashlib.sha256(FILE).hexdigest(), hashlib.sha256(b"other").hexdigest())
    forgery = (name, encode(msgspec.structs.replace(forged, statement=other)))
    assert words in refusal(store, forgery, file=b"other", lenient=lenient)
    # Beside one that holds, too.
    assert "'Chief' does not fit" in refusal(store, signature(BUILDER), signature(APPROVER, b"other"), lenient=lenient)


def test_a_signature_on_another_kind_of_file_is_none(store):
    assert "does not fit" in refusal(store, signature(BUILDER, purpose="evidence pack"))


def test_a_revoked_key_is_refused_even_in_a_lab_and_whenever_it_signed(store):
    remove_key(store.folder, "Build", revoke="stolen")
    revoked = TrustStore.open(store.folder)
    for lenient in (False, True):
        assert "'Build' was revoked" in refusal(
            revoked, signature(BUILDER, signed_at="2020-01-01T00:00:00Z"), lenient=lenient
        )
    remove_key(store.folder, "Chief", revoke="left")
    new = Signer.make("New", "builder")
    make_store(store.folder, new)
    standing = check(TrustStore.open(store.folder), signature(new), signature(APPROVER, cited=(SEEN,)))
    assert "'Chief' was revoked" in standing.unapproved("1" * 64, "2" * 64)


def test_keys_rotate_by_signing_twice(tmp_path):
    old, new = Signer.make("2026", "builder"), Signer.make("2028", "builder")
    twice = (signature(old), signature(new))
    for signers in ((old,), (old, new), (new,)):
        folder = make_store(tmp_path / "-".join(signer.public.name for signer in signers), *signers)
        assert check(TrustStore.open(folder), *twice).untrusted == ""


def at(monkeypatch, now):
    monkeypatch.setattr(standings, "clock_now", lambda: now)


def expiring(tmp_path, monkeypatch):
    from medfm_compress.runtime.trust import store_changes

    monkeypatch.setattr(store_changes, "clock_now", lambda: "2026-12-01T00:00:00Z")
    signer = Signer.make("Build", "builder", "2027-01-01T00:00:00Z")
    return signer, TrustStore.open(make_store(tmp_path / "expiring", signer))


def test_an_expired_key_is_refused_and_forgiven_in_a_lab(tmp_path, monkeypatch):
    signer, store = expiring(tmp_path, monkeypatch)
    at(monkeypatch, "2026-12-31T23:59:59Z")
    assert check(store, signature(signer)).untrusted == ""
    at(monkeypatch, "2027-01-01T00:00:01Z")
    assert "'Build' expired on 2027-01-01 (it is at least 2027-01-01); have it" in refusal(store, signature(signer))
    assert "expired" in check(store, signature(signer), lenient=True).untrusted


def test_a_clock_of_1970_neither_stops_a_device_nor_makes_an_expired_key_good(tmp_path, monkeypatch):
    signer, store = expiring(tmp_path, monkeypatch)
    at(monkeypatch, "1970-01-01T00:00:00Z")
    standing = check(store, signature(signer))
    assert standing.untrusted == "" and standing.clock_is_behind and standing.time == "2026-12-01T00:00:00Z"
    # A signature that the key made after it had expired,
    assert "expired" in refusal(store, signature(signer, signed_at="2027-02-01T00:00:00Z"))
    # another key entered since, and what the program remembers, all show that it is later.
    approver = signature(APPROVER, signed_at="2027-02-01T00:00:00Z")
    assert "expired" in refusal(TrustStore.open(make_store(store.folder, APPROVER)), signature(signer), approver)
    assert "expired" in refusal(TrustStore.open(store.folder, not_before="2027-03-01"), signature(signer))


def test_a_clock_that_runs_ahead_only_makes_keys_expire(tmp_path, monkeypatch):
    signer, store = expiring(tmp_path, monkeypatch)
    at(monkeypatch, "2099-01-01T00:00:00Z")
    assert "set the clock" in refusal(store, signature(signer))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("signatures/x.json", b"{}", "is no signature"),
        (ZEROS, b"{}", "missing required field"),
        (ZEROS, b"[" * 9_000, "signatures/"),
        (ZEROS, b" " * (17 << 10), "is no signature"),
        (ZEROS, encode(Signature(key_id="1" * 64, statement="", signature="0" * 128)), "of the key"),
        (ZEROS, encode(Signature(key_id="0" * 64, statement="", signature="zz")), "of the key"),
    ],
)  # fmt: skip
def test_what_is_no_signature_is_refused_even_in_a_lab(store, name, content, words):
    assert words in refusal(store, signature(BUILDER), (name, content), lenient=True)


def test_a_statement_is_read_strictly_even_where_its_signature_holds(store):
    for statement in ("{}", "null", '{"signed_sha256":"' + hashlib.sha256(FILE).hexdigest() + '","signed_at":"soon"}'):
        made = BUILDER.private.sign(f"medfm-compress bundle signature 1\n{statement}".encode()).hex()
        name, _ = signature(BUILDER)
        entry = Signature(key_id=BUILDER.public.key_id, statement=statement, signature=made)
        assert "b.medfm: signature" in refusal(store, (name, encode(entry)))
    assert LATER > SIGNED_AT
