"""A trust store is its owner's alone, or it is none."""

from __future__ import annotations

import os

import pytest
from msgspec.structs import replace
from signing import Signer, make_store

from medfm_compress.runtime.errors import InputError, TrustRefused
from medfm_compress.runtime.strict_json import encode
from medfm_compress.runtime.trust import clock, store_changes
from medfm_compress.runtime.trust import store as stores
from medfm_compress.runtime.trust.store import TrustStore, find_store
from medfm_compress.runtime.trust.store_changes import add_key, remove_key

BUILDER, APPROVER = Signer.make("Build", "builder"), Signer.make("Chief", "approver")


@pytest.fixture
def folder(tmp_path):
    return make_store(tmp_path / "trust", BUILDER, APPROVER)


def refusal(folder):
    with pytest.raises(TrustRefused) as info:
        TrustStore.open(folder)
    assert "\n" not in str(info.value) and info.value.exit_code == 4
    return str(info.value)


def test_it_holds_what_was_entered(folder):
    store = TrustStore.open(folder)
    assert {key.name: key.role for key in store.keys.values()} == {"Build": "builder", "Chief": "approver"}
    assert all(key.added >= clock.WRITTEN for key in store.keys.values())


def test_an_empty_one_trusts_nobody(tmp_path):
    (tmp_path / "trust").mkdir(mode=0o755)
    assert "holds no key" in refusal(tmp_path / "trust")
    assert "No such file" in refusal(tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "is a file" in refusal(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o1777])
def test_a_folder_that_others_may_write_to_is_refused(folder, mode):
    folder.chmod(mode)
    assert "others may write to" in refusal(folder)
    with pytest.raises(TrustRefused):
        add_key(folder, BUILDER.public)
    with pytest.raises(TrustRefused):
        remove_key(folder, "Build")


@pytest.mark.parametrize("name", [f"{BUILDER.public.key_id}.json", "revoked.json"], ids=["key", "revoked"])
def test_a_file_that_others_may_write_to_is_refused(folder, name):
    remove_key(folder, "Chief", revoke="lost")
    (folder / name).chmod(0o646)
    assert "others may write to" in refusal(folder)


def test_a_folder_above_in_which_others_may_replace_it_is_refused(tmp_path):
    (tmp_path / "shared").mkdir()
    folder = make_store(tmp_path / "shared" / "trust", BUILDER)
    (tmp_path / "shared").chmod(0o777)
    assert f"others may write to {tmp_path / 'shared'}" in refusal(folder)
    (tmp_path / "shared").chmod(0o1777)  # as /tmp: nobody may rename what is another's
    assert TrustStore.open(folder).keys


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(folder):
    os.chown(folder, 12345, 12345)
    assert "others may write to" in refusal(folder)


def test_a_link_is_followed_and_one_of_somebody_else_is_refused(folder, tmp_path):
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    link = tmp_path / "sticky" / "link"
    link.symlink_to(tmp_path / "relay")
    (tmp_path / "relay").symlink_to("trust")
    assert TrustStore.open(link).keys
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        os.lchown(link, 12345, 12345)
        assert f"others may write to {link}" in refusal(link)
        assert f"others may write to {link}" in refusal(link / ".." / "trust")
    (tmp_path / "relay").unlink()
    (tmp_path / "relay").symlink_to("relay")
    assert "cannot be read" in refusal(tmp_path / "relay")


def test_what_is_no_key_in_it_is_refused(folder):
    path = folder / f"{BUILDER.public.key_id}.json"
    content = path.read_bytes()
    (folder / ".editing").write_text("left by an editor")
    assert TrustStore.open(folder).keys
    path.rename(folder / f"{'0' * 64}.json")
    assert "not named by the key" in refusal(folder)
    (folder / f"{'0' * 64}.json").unlink()
    path.symlink_to(folder / "elsewhere")
    assert "cannot be read: it is a link" in refusal(folder)
    path.unlink()
    path.write_bytes(content + b" " * (20 << 10))
    assert "at most" in refusal(folder)
    path.write_bytes(content.replace(b'"ed25519"', b'"rsa"'))
    assert "of type 'rsa'" in refusal(folder)
    path.write_bytes(content.replace(b'"role"', b'"role": "approver", "role"'))
    assert "names 'role' twice" in refusal(folder)
    path.write_bytes(b"[" * 10_000)
    assert path.name in refusal(folder)


def test_a_removed_key_is_unknown_and_a_revoked_one_stays_out(folder):
    remove_key(folder, "Build")
    assert [key.name for key in TrustStore.open(folder).keys.values()] == ["Chief"]
    add_key(folder, BUILDER.public)
    entry = remove_key(folder, BUILDER.public.key_id[:8], revoke="laptop stolen")
    assert TrustStore.open(folder).revoked == {BUILDER.public.key_id: entry}
    with pytest.raises(InputError, match="was revoked"):
        add_key(folder, BUILDER.public)
    with pytest.raises(InputError, match=r"no key 'Build'; it has Chief"):
        remove_key(folder, "Build")


def test_a_key_that_was_never_entered_may_be_revoked_by_its_whole_id(folder):
    remove_key(folder, "0" * 64, revoke="a key of the old supplier")
    assert "0" * 64 in TrustStore.open(folder).revoked


@pytest.mark.parametrize("wanted", [BUILDER.public.key_id.upper(), BUILDER.public.key_id[:9].upper()], ids=len)
def test_an_id_in_upper_case_revokes_the_key(folder, wanted):
    assert remove_key(folder, wanted, revoke="stolen").name == "Build"
    store = TrustStore.open(folder)
    assert set(store.revoked) == {BUILDER.public.key_id} and BUILDER.public.key_id not in store.keys
    remove_key(folder, "A" * 64, revoke="a key of the old supplier")
    assert "a" * 64 in TrustStore.open(folder).revoked


def test_a_public_key_in_place_of_its_id_revokes_it(folder):
    assert remove_key(folder, BUILDER.public.public_key, revoke="stolen").key_id == BUILDER.public.key_id


@pytest.mark.parametrize("wanted", ["z" * 64, "0" * 63, f"{'0' * 63} ", "\u0660" * 64, "K" * 64])
def test_what_is_no_key_id_revokes_nothing(folder, wanted):
    with pytest.raises(InputError, match="has no key"):
        remove_key(folder, wanted, revoke="stolen")
    assert not TrustStore.open(folder).revoked


@pytest.mark.parametrize(
    "edit", [str.upper, lambda text: text[:-1], lambda text: "z" * 64], ids=["upper", "short", "z"]
)
def test_a_list_of_revocations_with_an_id_that_is_none_is_refused(folder, edit):
    remove_key(folder, "Chief", revoke="lost")
    path, identity = folder / stores.REVOKED, APPROVER.public.key_id
    path.write_text(path.read_text().replace(identity, edit(identity)))
    assert "64 hex digits" in refusal(folder)


@pytest.mark.parametrize("reason", ["", " \t"])
def test_a_revocation_has_a_reason(folder, reason):
    with pytest.raises(InputError, match="say why"):
        remove_key(folder, "Build", revoke=reason)
    assert BUILDER.public.key_id in TrustStore.open(folder).keys


def test_nothing_is_entered_that_would_not_be_read(folder, monkeypatch):
    monkeypatch.setattr(store_changes, "MAX_KEYS", 2)
    with pytest.raises(InputError, match="remove one first"):
        add_key(folder, Signer.make("Third", "builder").public)
    add_key(folder, BUILDER.public)  # it is there
    with pytest.raises(InputError, match="at most"):
        remove_key(folder, "Build", revoke="x" * stores.MAX_REVOKED_BYTES)
    assert len(TrustStore.open(folder).keys) == 2


def test_a_key_has_one_role_and_no_two_are_called_the_same(folder):
    with pytest.raises(InputError, match="a key has one role"):
        add_key(folder, replace(BUILDER.public, role="approver"))
    add_key(folder, Signer.make("Build", "builder").public)
    with pytest.raises(InputError, match="2 keys are called 'Build'; give one of the key ids"):
        remove_key(folder, "Build")


def test_an_expired_key_is_not_entered(folder, monkeypatch):
    old = Signer.make("Old", "builder", "2026-11-01T00:00:00Z")
    monkeypatch.setattr(store_changes, "clock_now", lambda: "1970-01-01T00:00:00Z")
    with pytest.raises(InputError, match="expired on 2026-11-01"):
        add_key(folder, old.public)


def test_which_store_counts(folder, tmp_path, monkeypatch):
    other = make_store(tmp_path / "other", BUILDER)
    monkeypatch.delenv(stores.VARIABLE, raising=False)
    monkeypatch.setattr(stores, "DEFAULT_STORE", tmp_path / "none")
    assert find_store(None) is None
    monkeypatch.setattr(stores, "DEFAULT_STORE", folder)
    assert find_store(None).folder == folder
    monkeypatch.setenv(stores.VARIABLE, str(other))
    assert find_store(None).folder == other
    assert find_store(folder).folder == folder
    opened = TrustStore.open(other, not_before="2030-01-01")
    assert find_store(opened) is opened and "2030-01-01T23:59:59Z" in opened.dates
    monkeypatch.setenv(stores.VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(TrustRefused, match="No such file"):  # one that is named has to exist
        find_store(None)
    with pytest.raises(InputError, match="empty or"):
        find_store("")


def test_a_failed_write_leaves_the_store_as_it_was(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="No space left"):
        add_key(folder, Signer.make("New", "builder").public)
    with pytest.raises(InputError, match="No space left"):
        remove_key(folder, "Build", revoke="stolen")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert encode(BUILDER.public)  # the key itself is untouched
