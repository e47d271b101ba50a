"""What the signatures of a file are worth to a trust store.

A bundle is *trusted* where a builder's signature holds, a verdict *counts* where an approver's signature holds that
cites the verdict's report and policy. A signature holds where its key stands in the store, is not revoked and has not
expired, and it fits the bytes. One of a known key that does not fit them is refused whatever else is there. Signatures
of unknown keys say nothing. Several builders, or approvers, may sign: one that holds is enough, which is what lets keys
be rotated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from medfm_compress.runtime.errors import BundleRefused
from medfm_compress.runtime.trust.clock import clock_now, latest
from medfm_compress.runtime.trust.keys import PublicKey, Role
from medfm_compress.runtime.trust.signature import (
    Cited,
    Purpose,
    Signature,
    Statement,
    parse_signature,
    read_statement,
)
from medfm_compress.runtime.trust.store import TrustStore

State = Literal["holds", "unknown key", "revoked", "expired"]


class CheckedSignature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature, and what it is worth.

    Attributes:
        key_id: of the key that it is said to be of.
        state: whether it holds, and if not, why.
        name: of the key's owner; empty for an unknown key.
        role: of a known key.
        signed_at: by the signer's clock; empty where the signature was not checked.
        cited: reports and policies that an approver stands behind.
        reason: one phrase where it does not hold.
    """

    key_id: str
    state: State
    name: str = ""
    role: Role | None = None
    signed_at: str = ""
    cited: tuple[Cited, ...] = ()
    reason: str = ""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The worth of all signatures together.

    Attributes:
        signatures: each one, in the order of key ids.
        lenient: what is missing is forgiven and flagged (``--allow-unsigned``).
        time: that expiry was held against, see `clock`.
        clock_is_behind: the clock shows an earlier time than was certainly reached.
    """

    signatures: tuple[CheckedSignature, ...]
    lenient: bool
    time: str
    clock_is_behind: bool

    def holding(self, role: Role) -> tuple[CheckedSignature, ...]:
        """The signatures of this role that hold."""
        return tuple(entry for entry in self.signatures if entry.role == role and entry.state == "holds")

    @property
    def untrusted(self) -> str:
        """Why no builder stands behind the file, as a phrase; empty where one does."""
        return self._lack("builder")

    def unapproved(self, report_sha256: str, policy_sha256: str) -> str:
        """Why no approver stands behind the verdict on this report under this policy; empty where one does."""
        approvals = self.holding("approver")
        wanted = Cited(report_sha256=report_sha256, policy_sha256=policy_sha256)
        if not approvals or any(wanted in entry.cited for entry in approvals):
            return self._lack("approver")
        return f"{approvals[0].name!r} signed it for another report or policy than the verdict's"

    def _lack(self, role: Role) -> str:
        if self.holding(role):
            return ""
        failed = [entry.reason for entry in self.signatures if entry.role == role or entry.state == "revoked"]
        if failed:
            return "; ".join(failed)
        strangers = [entry.key_id[:16] for entry in self.signatures if entry.state == "unknown key"]
        if strangers:
            return f"no trusted {role} signed it, only keys that are not in the trust store ({', '.join(strangers)})"
        return f"no trusted {role} signed it"


def check_signatures(
    store: TrustStore,
    purpose: Purpose,
    signed: bytes,
    signatures: Mapping[str, bytes],
    *,
    source: str,
    lenient: bool = False,
) -> Standing:
    """Hold ``signatures`` (member name → content) on the bytes ``signed`` against ``store``.

    Args:
        store: the keys that are trusted.
        purpose: kind of the file; a signature on another kind is none.
        signed: the bytes that are used, and no others.
        signatures: of a file, not yet looked at.
        source: what to call the file in an error.
        lenient: missing, unknown and expired signatures are forgiven; edited files and revoked keys are not.

    Raises:
        BundleRefused: no builder's signature holds, or one of a known key does not fit the bytes.
    """
    parsed = [parse_signature(name, content, source) for name, content in sorted(signatures.items())]
    said = {
        entry.key_id: read_statement(entry, store.keys[entry.key_id], purpose, signed, source)
        for entry in parsed
        if entry.key_id in store.keys and entry.key_id not in store.revoked
    }
    clock = clock_now()
    time = latest(clock=clock, dates=(*store.dates, *(statement.signed_at for statement in said.values())))
    checked = tuple(_checked(entry, store, said.get(entry.key_id), time) for entry in parsed)
    standing = Standing(signatures=checked, lenient=lenient, time=time, clock_is_behind=clock < time)
    missing = standing.untrusted
    if missing and (not lenient or any(entry.state == "revoked" for entry in checked)):
        raise BundleRefused(f"{source}: {missing}; {_remedy(store, checked)}")
    return standing


def _checked(entry: Signature, store: TrustStore, statement: Statement | None, time: str) -> CheckedSignature:
    identity = entry.key_id
    if identity in store.revoked:
        revoked = store.revoked[identity]
        reason = f"the key of {revoked.name!r} was revoked on {revoked.date[:10]}"
        return CheckedSignature(key_id=identity, state="revoked", name=revoked.name, reason=reason)
    if statement is None:
        return CheckedSignature(key_id=identity, state="unknown key", reason="its key is not in the trust store")
    return _of_known_key(store.keys[identity], statement, time)


def _of_known_key(key: PublicKey, statement: Statement, time: str) -> CheckedSignature:
    expired = time > key.expires  # of the dates, the signature's own is among those that were reached
    return CheckedSignature(
        key_id=key.key_id,
        state="expired" if expired else "holds",
        name=key.name,
        role=key.role,
        signed_at=statement.signed_at,
        cited=statement.cited,
        reason=f"the key of {key.name!r} expired on {key.expires[:10]} (it is at least {time[:10]})" if expired else "",
    )


def _remedy(store: TrustStore, checked: tuple[CheckedSignature, ...]) -> str:
    if any(entry.state == "expired" for entry in checked):
        return "have it signed with a current key, or set the clock"
    if not any(key.role == "builder" for key in store.keys.values()):
        return f"the trust store {store.folder} holds no builder's key; enter one with 'medfm-compress trust add'"
    return "have it signed with 'medfm-compress bundle sign', or try it in a lab with --allow-unsigned"
