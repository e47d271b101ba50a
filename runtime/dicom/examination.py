"""Which images are of one examination, without a word of which: for statistics that must not count one twice."""

from __future__ import annotations

import hashlib
import secrets
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset


def examination(ds: Dataset) -> bytes | None:
    """A mark of the Study Instance UID (0020,000D), another in every process; None where there is none.

    It is for comparing in memory: who has it cannot find the UID, for the salt is written nowhere.
    """
    uid = str(ds.get("StudyInstanceUID", "") or "")
    return hashlib.blake2b(uid.encode("utf-8", "replace"), key=_salt(), digest_size=8).digest() if uid else None


@cache
def _salt() -> bytes:
    return secrets.token_bytes(32)
