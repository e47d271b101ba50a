"""The files below a folder, and which of them are images: by their content, and by a name that claims to be one.

A broken image must be refused and not passed over, so a file that is named like an image counts as one.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from medfm_compress.runtime.images.file_types import HEAD_BYTES, kind_of, names_an_image, refusal_of
from medfm_compress.runtime.images.size_limits import is_regular_file

_INDEX = "DICOMDIR"  # DICOM PS3.10 8.6: the directory of a medium, which has no pixels


def find_files(folder: Path) -> Iterator[Path]:
    """Every file below ``folder``, sorted within each folder; what cannot be entered stands for itself.

    What begins with ``.`` or ``__`` is left out, as in a study. Links are followed, and no folder is entered twice.
    """
    entered: set[tuple[int, int]] = set()
    pending = [folder]
    while pending:  # no recursion: folders may be nested deeper than calls
        path = pending.pop()
        try:
            status = path.stat()
            inside = sorted(path.iterdir(), reverse=True) if stat.S_ISDIR(status.st_mode) else None
        except OSError:  # no permission, a name too long, a link to nothing
            inside = None
        if inside is None:
            yield path
        elif (status.st_dev, status.st_ino) not in entered:
            entered.add((status.st_dev, status.st_ino))
            pending += [child for child in inside if not child.name.startswith((".", "__"))]


def why_no_image(path: Path) -> str:
    """Why a file need not be predicted on; empty where it is an image, claims to be one, or cannot be looked at."""
    if path.name == _INDEX:
        return "the index of a DICOM medium, not an image"
    if names_an_image(path.name):
        return ""
    try:
        if not is_regular_file(path):
            return "" if path.is_dir() else "a device, pipe or socket"
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return ""
    return "" if kind_of(head) in ("dicom", "raster") else refusal_of(head).partition(";")[0]
