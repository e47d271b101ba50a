"""Limits that hostile files meet before anything is allocated for them."""

from __future__ import annotations

from medfm_compress.runtime.errors import ImageRefused

MAX_SIDE_PX = 65_535
MAX_PIXELS = 100_000_000


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
