"""Ed25519 keys: the private half a PEM file for its owner alone, the public half a small JSON file.

Signatures are those of RFC 8032 (pure Ed25519), private keys PKCS #8 (RFC 8410), readable by OpenSSL. A key's
identity is the sha256 of its 32 public bytes. `cryptography` is imported where a signature is made or checked.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from medfm_compress.runtime.errors import InputError, in_one_line, printable, quoted
from medfm_compress.runtime.ownership import is_private
from medfm_compress.runtime.regular_file import open_regular
from medfm_compress.runtime.trust.clock import check_time

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Role = Literal["builder", "approver"]
"""A *builder* answers for the model, an *approver* for its verdicts. A key has one role."""
ROLES: tuple[Role, ...] = ("builder", "approver")
MAX_KEY_BYTES = 16 << 10

_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LONGEST_NAME = 100


class PublicKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One public key with what it is trusted for.

    Attributes:
        name: of its owner, for people; 1 to 100 printable characters.
        role: what its signature says.
        public_key: 64 hex digits.
        expires: the time from which no signature of it holds.
        added: when it was entered into a trust store; empty outside of one.
        algorithm: ``ed25519``, the one kind.
    """

    name: str
    role: Role
    public_key: str
    expires: str
    added: str = ""
    algorithm: str = "ed25519"

    def __post_init__(self) -> None:
        if self.algorithm != "ed25519":
            raise InputError(f"the key is of type {quoted(self.algorithm)}; ed25519 is the one that is used")
        if not _HEX.fullmatch(self.public_key):
            raise InputError("public_key is not the 64 hex digits of an Ed25519 key; make one with bundle keygen")
        if not 0 < len(self.name) <= _LONGEST_NAME or printable(self.name) != self.name:
            raise InputError(f"name is {quoted(self.name)}; give 1 to {_LONGEST_NAME} printable characters")
        for field in ("expires", "added") if self.added else ("expires",):
            if check_time(getattr(self, field), field) != getattr(self, field):
                raise InputError(f"{field} is {getattr(self, field)!r}; a key file has the time to the second")

    @property
    def key_id(self) -> str:
        """sha256 of the public key, 64 hex digits."""
        return key_id(bytes.fromhex(self.public_key))

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` was made over exactly ``message`` by this key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key)).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


def is_key_id(text: str) -> bool:
    """Whether ``text`` is a whole key id: 64 hex digits in lower case."""
    return _HEX.fullmatch(text) is not None


def key_id(public: bytes) -> str:
    """Identity of the key with these 32 public bytes."""
    return hashlib.sha256(public).hexdigest()


def public_bytes(private: Ed25519PrivateKey) -> bytes:
    """The 32 public bytes of ``private``."""
    return private.public_key().public_bytes_raw()


def make_private_key(path: Path, passphrase: str = "") -> Ed25519PrivateKey:
    """Make a key and write it to ``path``, a new file that only its owner can read.

    Raises:
        InputError: the file exists or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(pem)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)  # half a key is none, and would stand in the way of the next
            raise
    except FileExistsError:
        raise InputError(f"{in_one_line(path)} exists, and a key is never overwritten; name another file") from None
    except (OSError, ValueError) as exc:
        raise InputError(f"cannot write {in_one_line(path)}: {in_one_line(exc)}; choose another folder") from None
    return private


def read_private_key(path: Path, passphrase: str = "") -> Ed25519PrivateKey:
    """The private key in the PEM file at ``path``.

    Raises:
        InputError: it cannot be read, others may read it, it is another kind of key, or the passphrase is wrong.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _read_private(path)
    try:
        private = load_pem_private_key(pem, passphrase.encode() or None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        state = "is not a private key in PEM, or its passphrase is another"
        raise InputError(f"{in_one_line(path)} {state}; bundle keygen makes one") from None
    if not isinstance(private, Ed25519PrivateKey):
        kind = type(private).__name__.removeprefix("_").removesuffix("PrivateKey")
        raise InputError(f"{in_one_line(path)} holds a key of type {kind}; Ed25519 is the one that is used")
    return private


def is_encrypted(path: Path) -> bool:
    """Whether the key at ``path`` needs a passphrase; raises like `read_private_key`."""
    return b"ENCRYPTED" in _read_private(path).split(b"\n", 1)[0]


def _read_private(path: Path) -> bytes:
    """Content of a file that nobody else can read: the permissions are those of what is read, not of a name."""
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            if not is_private(status):
                raise InputError(
                    f"others may read the private key {in_one_line(path)} (mode {status.st_mode & 0o777:04o}); if "
                    "nobody has, chmod 600 it, else make another"
                )
            return file.read(MAX_KEY_BYTES)
    except InputError:
        raise
    except (OSError, ValueError) as exc:
        raise InputError(f"cannot read the private key {in_one_line(path)}: {in_one_line(exc)}") from None
