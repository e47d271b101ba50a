"""A key is an Ed25519 key, kept to its owner."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.trust.keys import (
    PublicKey,
    is_encrypted,
    make_private_key,
    public_bytes,
    read_private_key,
)
from medfm_compress.runtime.trust.store_changes import read_public_key

KEY = {"name": "Build", "role": "builder", "public_key": "ab" * 32, "expires": "2030-01-01T00:00:00Z"}


def test_a_key_comes_back_and_only_its_owner_may_read_it(tmp_path):
    old = os.umask(0)
    try:
        made = make_private_key(tmp_path / "keys" / "a.key")
    finally:
        os.umask(old)
    path = tmp_path / "keys" / "a.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert public_bytes(read_private_key(path)) == public_bytes(made)
    with pytest.raises(InputError, match="never overwritten"):
        make_private_key(path)


def test_no_cryptography_is_loaded_where_no_store_is_asked():
    program = "import sys, medfm_compress.runtime.engine; print('cryptography' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_key_that_the_disk_does_not_hold_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            make_private_key(tmp_path / "a.key")
    assert not list(tmp_path.iterdir())
    make_private_key(tmp_path / "a.key")


def test_a_passphrase_encrypts_it(tmp_path):
    made = make_private_key(tmp_path / "a.key", "swordfish")
    assert is_encrypted(tmp_path / "a.key")
    assert public_bytes(read_private_key(tmp_path / "a.key", "swordfish")) == public_bytes(made)
    for wrong in ("", "sword"):
        with pytest.raises(InputError, match="passphrase is another"):
            read_private_key(tmp_path / "a.key", wrong)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666, 0o777])
def test_a_private_key_that_others_may_read_or_write_is_not_used(tmp_path, mode):
    make_private_key(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(mode)
    with pytest.raises(InputError, match=f"others may read .*mode {mode:04o}.*chmod 600"):
        read_private_key(tmp_path / "a.key")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        (lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048), "RSA"),
        (lambda: ec.generate_private_key(ec.SECP256R1()), "E"),
    ],
)
def test_a_private_key_of_another_type_is_named(tmp_path, key, kind):
    pem = key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "a.key").write_bytes(pem)
    (tmp_path / "a.key").chmod(0o600)
    with pytest.raises(InputError, match=f"key of type {kind}.*; Ed25519 is the one"):
        read_private_key(tmp_path / "a.key")


@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_private_key(tmp_path, content):
    (tmp_path / "a.key").write_bytes(content)
    (tmp_path / "a.key").chmod(0o600)
    with pytest.raises(InputError, match="is not a private key in PEM"):
        read_private_key(tmp_path / "a.key")
    with pytest.raises(InputError, match="cannot read the private key"):
        read_private_key(tmp_path / "none.key")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"algorithm": "rsa"}, "of type 'rsa'; ed25519 is the one"),
        ({"public_key": "ab" * 31}, "64 hex digits"),
        ({"public_key": "AB" * 32}, "64 hex digits"),
        ({"role": "owner"}, "'owner'"),
        ({"name": ""}, "1 to 100 printable"),
        ({"name": "a\u001b[2J"}, "1 to 100 printable"),
        ({"name": "x" * 101}, "1 to 100 printable"),
        ({"expires": "soon"}, "expires is 'soon'"),
        ({"expires": "2030-01-01"}, "time to the second"),
        ({"expires": "2030-13-01T00:00:00Z"}, "expires is"),
        ({"more": 1}, "unknown field"),
    ],
)
def test_a_public_key_file_is_strict(tmp_path, change, words):
    path = tmp_path / "a.pub"
    path.write_bytes(msgspec.json.encode(KEY))
    assert read_public_key(path).name == "Build"
    path.write_bytes(msgspec.json.encode({**KEY, **change}))
    with pytest.raises(InputError, match=words):
        read_public_key(path)


def test_a_pem_given_as_a_public_key_is_named(tmp_path):
    make_private_key(tmp_path / "a.key")
    with pytest.raises(InputError, match=r"is a PEM file; give the \.pub file"):
        read_public_key(tmp_path / "a.key")


def test_signatures_are_those_of_rfc_8032():
    """Test 2 of section 7.1: secret key, public key, message 72, signature."""
    secret = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    public = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    key = PublicKey(name="RFC", role="builder", public_key=public, expires="2030-01-01T00:00:00Z")
    assert public_bytes(Ed25519PrivateKey.from_private_bytes(secret)).hex() == public
    assert key.verifies(signature, b"\x72")
    assert not key.verifies(signature, b"\x73") and not key.verifies(signature[:-1], b"\x72")
    assert Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)) is not None
