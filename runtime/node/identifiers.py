"""Marks in place of the identifiers of images: what a log or an audit trail may hold.

A UID of a study or image finds a patient in any PACS. Its mark is a keyed digest: who has the node's key can tell
whether a record is about a given image, nobody else can. UIDs of the standard itself (SOP classes, transfer syntaxes)
are left as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import InputError

KEY_FILE = "marks.key"
_KEY_BYTES = 32
_OF_THE_STANDARD = "1.2.840.10008."
_UID = re.compile(r"(?<![\d.])(?:2\.25\.\d{6,39}|[0-2](?:\.\d{1,39}){4,})(?![\d.]*\d)")


class Marks:
    """What turns identifiers into marks."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def of_folder(cls, folder: Path) -> Marks:
        """Those of the node in ``folder``, whose key is made where there is none.

        Raises:
            InputError: the key cannot be read or written, or is damaged.
        """
        path = folder / KEY_FILE
        try:
            if not path.exists():
                write_atomically(path, os.urandom(_KEY_BYTES))
                path.chmod(0o600)
            key = path.read_bytes()
        except OSError as exc:
            raise InputError(f"cannot use {path}: {exc.strerror}; make it readable for this user") from None
        if len(key) != _KEY_BYTES:
            raise InputError(
                f"{path} has {len(key)} bytes instead of {_KEY_BYTES}; restore it, or remove it for a new one"
            )
        return cls(key)

    def of(self, identifier: str) -> str:
        """The mark of one identifier."""
        return (
            "mark-" + hashlib.blake2b(identifier.encode("utf-8", "replace"), key=self._key, digest_size=8).hexdigest()
        )

    def hidden(self, text: str) -> str:
        """``text`` with every UID replaced by its mark."""
        return _UID.sub(lambda uid: uid[0] if uid[0].startswith(_OF_THE_STANDARD) else self.of(uid[0]), text)
