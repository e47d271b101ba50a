"""The trust store: a folder of public keys, and of those that were revoked.

``<key id>.json`` is one `PublicKey`, ``revoked.json`` the list of revocations; nothing else stands in it. Whoever can
write there decides what runs, so a store is refused whose folder, files or parent folders others may write to.

Which store: the one that is passed; else what ``MEDFM_TRUST_STORE`` names; else `DEFAULT_STORE` where it exists. A
store that is named has to exist. Where none is found nothing is asked of a bundle's signatures.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import msgspec

from medfm_compress.runtime.errors import InputError, TrustRefused, in_one_line, quoted, refusing
from medfm_compress.runtime.ownership import is_foreign, others_may_replace_in, steps_to
from medfm_compress.runtime.regular_file import open_regular
from medfm_compress.runtime.strict_json import decode
from medfm_compress.runtime.trust.clock import check_time
from medfm_compress.runtime.trust.keys import MAX_KEY_BYTES, PublicKey, is_key_id

VARIABLE = "MEDFM_TRUST_STORE"
DEFAULT_STORE = (
    Path(os.environ.get("PROGRAMDATA", "C:/ProgramData")) / "medfm-compress" / "trust"
    if os.name == "nt"
    else Path("/etc/medfm-compress/trust")
)
REVOKED = "revoked.json"
MAX_KEYS = 256
MAX_REVOKED_BYTES = 1 << 20


class Revocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key whose signatures never hold, whenever they were made: its thief may date them as he likes."""

    key_id: str
    name: str
    date: str
    reason: str

    def __post_init__(self) -> None:
        if not is_key_id(self.key_id):  # it would revoke nothing
            raise InputError(f"key_id of a revocation is {quoted(self.key_id)}; give 64 hex digits in lower case")
        if check_time(self.date, "date") != self.date:
            raise InputError("the date of a revocation has the time to the second")


class TrustStore(NamedTuple):
    """The keys that a device trusts.

    Attributes:
        folder: where they stand.
        keys: key id → key.
        revoked: key id → revocation.
        not_before: a time that was certainly reached, e.g. the newest that the embedding program has stored; see
            `clock`. Empty where nothing is known.
    """

    folder: Path
    keys: dict[str, PublicKey]
    revoked: dict[str, Revocation]
    not_before: str = ""

    @classmethod
    def open(cls, folder: str | Path, *, not_before: str = "") -> TrustStore:
        """Read the store in ``folder``.

        Raises:
            TrustRefused: it is not there, empty, damaged, or others may change it.
        """
        store = cls.open_or_empty(folder, not_before=not_before)
        if not store.keys:
            raise TrustRefused(
                f"the trust store {in_one_line(store.folder)} holds no key, so no bundle could be trusted; enter one "
                "with 'medfm-compress trust add'"
            )
        return store

    @classmethod
    def open_or_empty(cls, folder: str | Path, *, not_before: str = "") -> TrustStore:
        """The same, for whoever fills it: there may be no key in it yet."""
        folder = Path(folder)
        with refusing(TrustRefused, f"the trust store {in_one_line(folder)} cannot be read"):
            check_folder(folder)
            names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
            keys = dict(_read_key(folder / name) for name in _key_names(folder, names))
            revoked = _read_revoked(folder / REVOKED) if REVOKED in names else {}
        return cls(folder, keys, revoked, check_time(not_before, "not_before") if not_before else "")

    @property
    def dates(self) -> tuple[str, ...]:
        """Times that were certainly reached."""
        entered = (key.added for key in self.keys.values())
        return (self.not_before, *entered, *(entry.date for entry in self.revoked.values()))


def find_store(given: str | Path | TrustStore | None) -> TrustStore | None:
    """The store that counts here, see above; None where there is none.

    Raises:
        TrustRefused: it cannot be used.
    """
    if isinstance(given, TrustStore):
        return given
    path = store_path(given)
    return None if path is None else TrustStore.open(path)


def store_path(given: str | Path | None) -> Path | None:
    """Where the store is that counts here; None where there is none.

    Raises:
        InputError: the path given is empty.
    """
    if given is not None:
        if Path(given) == Path():
            raise InputError("the trust store is empty or '.'; give the path of its folder")
        return Path(given)
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    try:
        DEFAULT_STORE.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # it may be there; opening it says why it cannot be used
        pass
    return DEFAULT_STORE


def check_folder(folder: Path) -> None:
    """Refuse a store that others may change.

    Raises:
        TrustRefused: its folder, or one above it, is not the user's or root's alone to write, or is no folder.
        OSError: it cannot be looked at.
    """
    status = folder.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise TrustRefused(f"the trust store {in_one_line(folder)} is a file; give a folder")
    if is_foreign(status):
        raise TrustRefused(_writable(folder))
    for step in steps_to(folder):
        if others_may_replace_in(step.lstat()):
            raise TrustRefused(f"{_writable(step)}; or move the store")


def _writable(path: Path) -> str:
    return (
        f"others may write to {in_one_line(path)}, and who can write to a trust store decides what runs; make it "
        "yours or root's alone (chmod go-w)"
    )


def _key_names(folder: Path, names: list[str]) -> list[str]:
    """Names of the files that must be keys."""
    keys = [name for name in names if name != REVOKED]
    if len(keys) > MAX_KEYS:
        raise TrustRefused(
            f"the trust store {in_one_line(folder)} holds {len(keys)} files; at most {MAX_KEYS} are read"
        )
    return keys


def _read_key(path: Path) -> tuple[str, PublicKey]:
    key = decode(_read(path, MAX_KEY_BYTES), PublicKey, source=in_one_line(path), error=TrustRefused, unique=True)
    if path.name != f"{key.key_id}.json":
        raise TrustRefused(
            f"{in_one_line(path)} is not named by the key in it; enter keys with 'medfm-compress trust add'"
        )
    return key.key_id, key


def _read_revoked(path: Path) -> dict[str, Revocation]:
    entries = decode(
        _read(path, MAX_REVOKED_BYTES),
        tuple[Revocation, ...],
        source=in_one_line(path),
        error=TrustRefused,
        unique=True,
    )
    return {entry.key_id: entry for entry in entries}


def _read(path: Path, limit: int) -> bytes:
    """Content of a file that others cannot write: the permissions are those of what is read."""
    with open_regular(path, getattr(os, "O_NOFOLLOW", 0)) as file:
        status = os.fstat(file.fileno())
        if is_foreign(status):
            raise TrustRefused(_writable(path))
        if status.st_size > limit:
            raise TrustRefused(f"{in_one_line(path)} has {status.st_size} bytes; at most {limit} are read")
        return file.read(limit)
