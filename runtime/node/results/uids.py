"""UIDs of results, made from what the results are made from: a repeat has the UIDs of the first time.

    u = SHA-256(len(p_1) p_1 len(p_2) p_2 …), first 16 bytes, with version 8 and variant of RFC 9562 set
    UID = root . u as a decimal number

p_i the parts in UTF-8, each after its length, so that no two lists of parts are one byte string. Under ``2.25`` this is
PS3.5 B.2: a UUID, as a number. A UUID has at most 39 digits, so that a root of 24 characters gives 64 (PS3.5 9.1).
"""

from __future__ import annotations

import hashlib
import uuid

UUID_ROOT = "2.25"


def make_uid(root: str, *parts: str) -> str:
    """UID below ``root``, at most 24 characters, of ``parts``."""
    return f"{root}.{make_uuid(*parts).int}"


def make_uuid(*parts: str) -> uuid.UUID:
    """UUID version 8 of ``parts``."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    bits = int.from_bytes(digest.digest()[:16], "big")
    bits = bits & ~(0xF << 76) | 8 << 76
    return uuid.UUID(int=bits & ~(0x3 << 62) | 0x2 << 62)
