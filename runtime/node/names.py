"""What AE titles and names of destinations may be."""

from __future__ import annotations

import re

from medfm_compress.runtime.errors import InputError, quoted

_AE_TITLE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5 6.2: no backslash, no control characters
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def check_ae_title(title: str) -> None:
    """Raise InputError unless ``title`` is an AE title (PS3.5 6.2, value representation AE)."""
    if not _AE_TITLE.fullmatch(title) or not title.strip():
        raise InputError(
            f"AE title {quoted(title)} cannot be used; give 1 to 16 ASCII characters, not only spaces, no backslash"
        )


def check_name(name: str) -> None:
    """Raise InputError unless ``name`` may stand for a destination."""
    if not _NAME.fullmatch(name):
        raise InputError(f"name {quoted(name)} cannot be used; give up to 64 letters, digits, '.', '_' and '-'")


def check_different(what: str, names: list[str]) -> None:
    """Raise InputError where two of ``names`` are the same."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{what} has {quoted(twice[0])} twice; give every one a name of its own")
