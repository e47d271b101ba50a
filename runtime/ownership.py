"""Whether others than the user and root may change a file, or put another one into its place.

Unix permissions only (where an access list lets somebody write, its mask shows as the group's bits). Elsewhere nothing
is known, and nothing is reported.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_OTHERS_MAY_ANYTHING = stat.S_IRWXG | stat.S_IRWXO


def is_known() -> bool:
    """Whether this system has owners and permissions that can be asked for."""
    return hasattr(os, "geteuid")


def is_foreign(status: os.stat_result) -> bool:
    """Whether somebody else owns it or may write to it."""
    return is_known() and (status.st_uid not in (os.geteuid(), 0) or bool(status.st_mode & _OTHERS_MAY_WRITE))


def is_private(status: os.stat_result) -> bool:
    """Whether the user owns it and nobody else may even read it."""
    return not is_known() or (status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_MAY_ANYTHING)


def anybody_may_replace_in(status: os.stat_result) -> bool:
    """Whether everybody may rename what lies in this folder (``/tmp`` is sticky)."""
    return is_known() and bool(status.st_mode & stat.S_IWOTH) and not status.st_mode & stat.S_ISVTX


def others_may_replace_in(status: os.stat_result) -> bool:
    """Whether anybody but the user and root may rename what lies in this folder, or lead this link elsewhere."""
    if stat.S_ISLNK(status.st_mode):  # whose mode says nothing
        return is_known() and status.st_uid not in (os.geteuid(), 0)
    return is_foreign(status) and not (status.st_mode & stat.S_ISVTX and status.st_uid in (os.geteuid(), 0))


def steps_to(path: Path, links: int = 40) -> Iterator[Path]:
    """Every folder and link that is passed on the way to ``path``, and it itself, links followed.

    Raises:
        OSError: more than 40 links, or one that cannot be read.
    """
    absolute = path.absolute()
    current = Path(absolute.anchor)
    for part in absolute.parts[1:]:
        yield current
        current /= part
        if current.is_symlink():
            if not links:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            yield current
            yield from steps_to(current.parent / current.readlink(), links - 1)
            current = current.resolve()
    yield current


def parents_of(folder: Path) -> list[Path]:
    """Every folder above ``folder``, by its name and by where links lead.

    Raises:
        OSError, ValueError, RuntimeError: no folder can have that name.
    """
    return [*folder.absolute().parents, *folder.resolve().parents]
