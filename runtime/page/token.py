"""The token that opens a page: random at every start, or kept in a file of this user's own."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from medfm_compress.runtime.errors import InputError, in_one_line
from medfm_compress.runtime.ownership import is_private
from medfm_compress.runtime.regular_file import read_regular

_BYTES = 24
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{20,256}")
_MAX_FILE_BYTES = 4096


def new_token() -> str:
    """A random one, of 192 bits."""
    return secrets.token_urlsafe(_BYTES)


def token_of(path: str | Path) -> str:
    """The token in the file ``path``, which is made where it is missing.

    Raises:
        InputError: it cannot be made or read, others may read it, or what it holds is no token.
    """
    file = Path(path)
    _make_missing(file)
    token = read_regular(file, _MAX_FILE_BYTES, "token_file").decode("ascii", "replace").strip()
    if not is_private(file.stat()):
        raise InputError(f"others may read the token_file {in_one_line(file)}; take the right from them (chmod 600)")
    if not _TOKEN.fullmatch(token):
        raise InputError(
            f"token_file {in_one_line(file)} holds no token; it must be 20 to 256 letters, digits, '-', '_', '.' or "
            "'~', or remove the file to have a random one made"
        )
    return token


def check_token(path: str | None) -> None:
    """Raise InputError where the file ``path`` is there and holds no token that can be used; nothing is made."""
    if path is not None and Path(path).exists():
        token_of(path)


def _make_missing(file: Path) -> None:
    try:
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    except FileExistsError:
        return
    except (OSError, ValueError) as exc:
        raise InputError(
            f"cannot make the token_file {in_one_line(file)}: {in_one_line(exc)}; give a path that can be written"
        ) from None
    with os.fdopen(handle, "w", encoding="ascii") as opened:
        opened.write(f"{new_token()}\n")
