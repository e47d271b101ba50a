"""Limits that hostile files meet before anything is allocated for them."""

from __future__ import annotations

import stat
from pathlib import Path

from medfm_compress.runtime.errors import ImageRefused

MAX_SIDE_PX = 65_535
MAX_PIXELS = 100_000_000
MAX_DECODED_BYTES = 2 * MAX_PIXELS  # the largest 16-bit grey image
MAX_FILE_BYTES = 2 * 1024**3


def check_extent(height: int, width: int, name: str) -> None:
    """Refuse an image that has no pixels or more than any radiograph (``MAX_PIXELS``).

    Raises:
        ImageRefused: a side is 0 or above ``MAX_SIDE_PX``, or the area above ``MAX_PIXELS``.
    """
    if min(height, width) < 1 or max(height, width) > MAX_SIDE_PX or height * width > MAX_PIXELS:
        raise ImageRefused(
            f"{name}: the image is {width}×{height} px; sides of 1 to {MAX_SIDE_PX} px and at most "
            f"{MAX_PIXELS // 1_000_000} megapixels are allowed"
        )


def check_decoded(height: int, width: int, bytes_per_pixel: int, name: str) -> None:
    """Refuse an image whose pixels take more than ``MAX_DECODED_BYTES`` once they are decoded.

    Raises:
        ImageRefused: they do.
    """
    size = height * width * bytes_per_pixel
    if size > MAX_DECODED_BYTES:
        raise ImageRefused(
            f"{name}: {width}×{height} px of {bytes_per_pixel} bytes are {size} bytes decoded; at most "
            f"{MAX_DECODED_BYTES} are allowed, give a smaller image"
        )


def read_limited(path: Path) -> bytes:
    """The whole file, of at most ``MAX_FILE_BYTES``.

    Raises:
        ImageRefused: missing, unreadable, a folder, a device, a pipe, a socket, or too large.
    """
    try:
        size = _regular_size(path)
        with path.open("rb") as file:
            data = file.read(size + 1)
    except (OSError, ValueError) as exc:
        reason = (exc.strerror or "cannot be read") if isinstance(exc, OSError) else "not a valid path"
        raise ImageRefused(f"{path.name}: {reason}; give the path of a readable image file") from None
    if len(data) != size:
        raise ImageRefused(f"{path.name}: the file changed while it was read; wait until it is written in full")
    return data


def is_regular_file(path: Path) -> bool:
    """Whether reading the path ends: not a folder, device, pipe or socket; opening a pipe waits for a writer."""
    return stat.S_ISREG(path.stat().st_mode)


def _regular_size(path: Path) -> int:
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise ImageRefused(f"{path.name}: a folder, not an image; a series of slices (3-D volume) is out of scope")
    if not stat.S_ISREG(found.st_mode):
        raise ImageRefused(f"{path.name}: a device, pipe or socket, not a file; save the image in a file first")
    if found.st_size > MAX_FILE_BYTES:
        raise ImageRefused(f"{path.name}: {found.st_size} bytes; an image file has at most {MAX_FILE_BYTES}")
    return found.st_size
