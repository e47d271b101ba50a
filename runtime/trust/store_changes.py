"""Entering keys into a trust store, and taking them out."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError, TrustRefused, in_one_line, quoted, refusing
from medfm_compress.runtime.ownership import is_known
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.strict_json import decode, encode
from medfm_compress.runtime.trust.clock import clock_now, latest
from medfm_compress.runtime.trust.keys import MAX_KEY_BYTES, PublicKey, is_key_id
from medfm_compress.runtime.trust.store import (
    MAX_KEYS,
    MAX_REVOKED_BYTES,
    REVOKED,
    Revocation,
    TrustStore,
    check_folder,
)


def read_public_key(path: Path) -> PublicKey:
    """The public key that `bundle keygen` wrote to ``path``.

    Raises:
        InputError: it cannot be read, or is another kind of file or key.
    """
    content = read_regular(path, MAX_KEY_BYTES, "public key")
    if content.startswith(b"-----BEGIN"):
        raise InputError(f"{in_one_line(path)} is a PEM file; give the .pub file that bundle keygen wrote beside it")
    return decode(content, PublicKey, source=f"public key {in_one_line(path)}", unique=True)


def add_key(folder: Path, key: PublicKey) -> PublicKey:
    """Enter ``key`` into the store in ``folder``, which is made where it is missing; the key as entered.

    Raises:
        TrustRefused: the store cannot be relied on.
        InputError: the key is there with another name or role, was revoked or has expired, the store is full, or the
            key cannot be written.
    """
    store = _opened_or_made(folder)
    now = latest(clock=clock_now(), dates=store.dates)
    revoked = store.revoked.get(key.key_id)
    if revoked is not None:
        raise InputError(f"the key of {key.name!r} was revoked on {revoked.date[:10]}; enter another")
    if now > key.expires:
        raise InputError(f"the key of {key.name!r} expired on {key.expires[:10]}; make another")
    there = store.keys.get(key.key_id)
    if there is not None and (there.name, there.role) != (key.name, key.role):
        raise InputError(
            f"this key is in the store as {there.role} {there.name!r}; remove it first, a key has one role"
        )
    if there is None and len(store.keys) >= MAX_KEYS:
        raise InputError(f"the trust store holds {MAX_KEYS} keys, which is all that are read; remove one first")
    entered = replace(key, added=now)
    _write(folder, f"{key.key_id}.json", encode(entered))
    return entered


def remove_key(folder: Path, wanted: str, *, revoke: str | None = None) -> PublicKey | Revocation:
    """Take the key called ``wanted`` (a name, at least 8 digits of a key id, or a public key) out of the store.

    With ``revoke``, a reason, it is also listed as revoked: its signatures never hold again, and it cannot be entered
    again. A whole key id may be revoked that is not in the store.

    Returns:
        The key that was removed, or the revocation.

    Raises:
        TrustRefused: the store cannot be relied on.
        InputError: no such key, several, a blank reason, or the store cannot be written.
    """
    if revoke is not None and not revoke.strip():
        raise InputError(f"the reason of the revocation is {revoke!r}; say why, or leave it out to only remove the key")
    store = TrustStore.open_or_empty(folder)
    found = _find(store, wanted)
    if found is None and (revoke is None or not is_key_id(wanted.lower())):
        names = ", ".join(sorted(f"{key.name} ({key.key_id[:16]})" for key in store.keys.values())) or "none"
        raise InputError(f"the trust store has no key {quoted(wanted)}; it has {names}")
    if revoke is None:
        (folder / f"{found.key_id}.json").unlink()  # type: ignore[union-attr]
        return found  # type: ignore[return-value]
    date = latest(clock=clock_now(), dates=store.dates)
    identity, name = (found.key_id, found.name) if found else (wanted.lower(), "(not entered)")
    entry = Revocation(key_id=identity, name=name, date=date, reason=revoke)
    listed = {**store.revoked, identity: entry}
    content = encode(tuple(listed[key] for key in sorted(listed)))
    if len(content) > MAX_REVOKED_BYTES:
        raise InputError(f"{REVOKED} would have {len(content)} bytes; at most {MAX_REVOKED_BYTES} are read, shorten it")
    _write(folder, REVOKED, content)
    (folder / f"{identity}.json").unlink(missing_ok=True)  # after the list: never neither
    return entry


def _find(store: TrustStore, wanted: str) -> PublicKey | None:
    digits = wanted.lower()
    if digits in store.keys:  # whatever another key is called
        return store.keys[digits]
    found = [
        key
        for key in store.keys.values()
        if key.name == wanted or key.public_key == digits or (len(digits) >= 8 and key.key_id.startswith(digits))
    ]
    if len(found) > 1:
        ids = ", ".join(key.key_id[:16] for key in found)
        raise InputError(f"{len(found)} keys are called {quoted(wanted)}; give one of the key ids {ids}")
    return found[0] if found else None


def _opened_or_made(folder: Path) -> TrustStore:
    if not os.path.lexists(folder):
        with refusing(TrustRefused, f"the trust store {in_one_line(folder)} cannot be made"):
            folder.mkdir(mode=0o755, parents=True)
            if is_known():
                folder.chmod(0o755)  # whatever the umask
    return TrustStore.open_or_empty(folder)


def _write(folder: Path, name: str, content: bytes) -> None:
    check_folder(folder)
    path = folder / name
    write_atomically(path, content)
    if is_known():
        path.chmod(0o644)
