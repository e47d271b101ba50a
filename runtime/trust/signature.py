"""A detached signature: who says what of which bytes.

What is signed is a *statement*, as text, behind a line that names its purpose, so that a signature on one kind of file
is none on another. The statement holds the sha256 of the file it is about. It is decoded only after the signature over
exactly its bytes was checked (as in DSSE, https://github.com/secure-systems-lab/dsse).
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Literal

import msgspec

from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.strict_json import decode, encode
from medfm_compress.runtime.trust.clock import check_time
from medfm_compress.runtime.trust.keys import PublicKey, key_id, public_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FOLDER = "signatures/"
MAX_SIGNATURES = 16
MAX_SIGNATURE_BYTES = 16 << 10
MAX_CITED = 64

Purpose = Literal["bundle", "evidence pack"]
_NAME = re.compile(r"signatures/([0-9a-f]{64})\.json", re.ASCII)
_SIGNATURE = re.compile(r"[0-9a-f]{128}", re.ASCII)


class Cited(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an approver has seen of one verdict: hex sha256 of the report and of the policy."""

    report_sha256: str
    policy_sha256: str


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a signature says.

    Attributes:
        signed_sha256: of the signed file: a bundle's manifest, a pack's index.
        signed_at: when, by the signer's clock.
        cited: of an approver: the verdicts that it stands behind are those that cite one of these.
    """

    signed_sha256: str
    signed_at: str
    cited: tuple[Cited, ...] = ()

    def __post_init__(self) -> None:
        if check_time(self.signed_at, "signed_at") != self.signed_at or len(self.cited) > MAX_CITED:
            raise InputError(f"a statement has the time to the second and cites at most {MAX_CITED} reports")


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement as text, and the key and the 128 hex digits that stand for it."""

    key_id: str
    statement: str
    signature: str


def sign(private: Ed25519PrivateKey, purpose: Purpose, statement: Statement) -> tuple[str, bytes]:
    """Member name and content of a signature; the same for the same key and statement."""
    text = msgspec.json.encode(statement, order="sorted").decode()
    made = private.sign(_message(purpose, text))
    identity = key_id(public_bytes(private))
    return member_name(identity), encode(Signature(key_id=identity, statement=text, signature=made.hex()))


def member_name(identity: str) -> str:
    """Where the signature of the key with this identity stands in an archive."""
    return f"{FOLDER}{identity}.json"


def parse_signature(name: str, content: bytes, source: str) -> Signature:
    """The signature in a member; who made it is not known yet.

    Raises:
        BundleRefused: not a signature, too large, or of another key than its name says.
    """
    match = _NAME.fullmatch(name)
    if match is None or len(content) > MAX_SIGNATURE_BYTES:
        raise BundleRefused(
            f"{source}: {name} is no signature: it has another name, or more than {MAX_SIGNATURE_BYTES} bytes"
        )
    signature = decode(content, Signature, source=f"{source}: {name}", error=BundleRefused)
    if signature.key_id != match[1] or not _SIGNATURE.fullmatch(signature.signature):
        raise BundleRefused(f"{source}: {name} is no signature of the key that it is named by")
    return signature


def read_statement(signature: Signature, key: PublicKey, purpose: Purpose, signed: bytes, source: str) -> Statement:
    """What ``key`` said of ``signed``.

    Raises:
        BundleRefused: it did not say so, or of other bytes.
    """
    edited = f"{source}: the signature of {key.name!r} does not fit it: it was edited after it was signed"
    if not key.verifies(bytes.fromhex(signature.signature), _message(purpose, signature.statement)):
        raise BundleRefused(f"{edited}, or the signature was")
    statement = decode(signature.statement, Statement, source=f"{source}: signature", error=BundleRefused)
    if statement.signed_sha256 != hashlib.sha256(signed).hexdigest():
        raise BundleRefused(edited)
    return statement


def _message(purpose: Purpose, text: str) -> bytes:
    return f"medfm-compress {purpose} signature 1\n{text}".encode()
