"""Keys, signatures and trust stores for tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.sign import add_signature
from medfm_compress.runtime.trust.keys import PublicKey, Role, public_bytes
from medfm_compress.runtime.trust.signature import Cited, Statement, sign
from medfm_compress.runtime.trust.store_changes import add_key

LATER = "9999-01-01T00:00:00Z"
SIGNED_AT = "2026-11-28T12:00:00Z"


class Signer(NamedTuple):
    """A private key and how it is entered into a store."""

    private: Ed25519PrivateKey
    public: PublicKey

    @classmethod
    def make(cls, name: str, role: Role, expires: str = LATER) -> Signer:
        """A new key."""
        private = Ed25519PrivateKey.generate()
        return cls(private, PublicKey(name=name, role=role, public_key=public_bytes(private).hex(), expires=expires))

    def sign(self, path: Path, *, signed_at: str = SIGNED_AT, cited: tuple[Cited, ...] | None = None) -> Path:
        """Sign the bundle at ``path`` in place; an approver cites what its verdicts cite."""
        bundle = Bundle.open(path)
        if cited is None:
            cited = cited_by(bundle) if self.public.role == "approver" else ()
        signed = hashlib.sha256(bundle.signed.manifest).hexdigest()
        statement = Statement(signed_sha256=signed, signed_at=signed_at, cited=cited)
        add_signature(bundle, path, *sign(self.private, "bundle", statement))
        return path


def cited_by(bundle: Bundle) -> tuple[Cited, ...]:
    """What the verdicts of ``bundle`` rest on."""
    return tuple(
        {
            Cited(report_sha256=verdict.report_sha256, policy_sha256=verdict.policy_sha256): None
            for verdict in bundle.manifest.verdicts
        }
    )


def make_store(folder: Path, *signers: Signer) -> Path:
    """A trust store with the keys of ``signers``."""
    for signer in signers:
        add_key(folder, signer.public)
    return folder


def signed_bundle(tiny: Any, path: Path, *signers: Signer, **options: Any) -> Path:
    """A tiny bundle with a passing verdict, signed by each of ``signers``."""
    tiny.bundle(path, **options)
    for signer in signers:
        signer.sign(path)
    return path
