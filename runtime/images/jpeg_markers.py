"""The markers of a JPEG, and how many it may have: decoders keep each, and Pillow goes over fill bytes in Python.

Source: ITU-T T.81, B.1.1.2 (fill bytes), B.1.1.3 (markers, table B.1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from medfm_compress.runtime.errors import ImageRefused

# 255 of an ICC profile, some hundred of an extended XMP packet, two or three for each of up to 200 scans.
MAX_SEGMENTS = 1000
MAX_HEADER_BYTES = 16 * 1024 * 1024  # the largest ICC profile; Pillow takes 0.1 s for each megabyte of some segments
MAX_FILL_BYTES = 64 * 1024  # writers align a segment to a block of a disk at most

SOS, EOI = 0xDA, 0xD9
_FILL = b"\xff"
# Stuffing, restarts, fill bytes and what is reserved are none; of JPEG-LS neither are bytes from 0 to 0x7F (T.87, A.1).
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")
# SOI, EOI, and what libjpeg refuses and Pillow goes on behind as if it had no length.
_WITHOUT_LENGTH = frozenset({0xC8, 0xD8, EOI, *range(0xF0, 0xFE)})
_OF_JPEG_LS = frozenset({0xF7, 0xF8})


class Marker(NamedTuple):
    """A marker and its segment.

    Attributes:
        code: second byte of the marker.
        at: where the marker stands.
        end: where its segment ends.
        filler: fill bytes before it; until the first scan, all bytes before it that are of no segment.
    """

    code: int
    at: int
    end: int
    filler: int


def markers(jpeg: bytes, *, is_jpeg_ls: bool = False) -> Iterator[Marker]:
    """Markers of the first image to its EOI; entropy-coded data and segments, with their previews, are stepped over.

    Until the first scan it ends at more than ``MAX_FILL_BYTES`` that are of no segment.
    """
    without_length = _WITHOUT_LENGTH - _OF_JPEG_LS if is_jpeg_ls else _WITHOUT_LENGTH
    end, has_scan = 2, False
    while (found := _MARKER.search(jpeg, end, len(jpeg) if has_scan else end + MAX_FILL_BYTES + 2)) is not None:
        at, last = found.start(), end
        code, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        end = at + 2 if code in without_length else at + 2 + max(2, length)
        yield Marker(code, at, end, _fill_bytes(jpeg, last, at) if has_scan else at - last)
        if has_scan and code == EOI:
            return
        has_scan = has_scan or code == SOS


def check_header(jpeg: bytes, name: str, *, is_jpeg_ls: bool = False) -> None:
    """Refuse a JPEG of far more segments, bytes in them or fill bytes before its first scan than an image has.

    It ends there, so that the pixels of a large image are not searched.

    Raises:
        ImageRefused: more than `MAX_SEGMENTS`, `MAX_HEADER_BYTES` or `MAX_FILL_BYTES`.
    """
    count = MarkerCount(name)
    end = 2
    for marker in markers(jpeg, is_jpeg_ls=is_jpeg_ls):
        count.add(marker)
        if marker.at > MAX_HEADER_BYTES:
            raise ImageRefused(
                f"{name}: the JPEG has more than {MAX_HEADER_BYTES} bytes before its first scan, far more than an "
                "image needs; save it again as a baseline JPEG"
            )
        if marker.code == SOS:
            return
        end = marker.end
    count.add(Marker(EOI, len(jpeg), len(jpeg), max(0, len(jpeg) - end)))


class MarkerCount:
    """Segments and fill bytes of a JPEG so far."""

    def __init__(self, name: str) -> None:
        """Errors call the file ``name``."""
        self._name = name
        self._segments = self._fill_bytes = 0

    def add(self, marker: Marker) -> None:
        """Raises ImageRefused where there are too many with this one."""
        self._segments += 1
        self._fill_bytes += marker.filler
        if self._segments > MAX_SEGMENTS:
            raise ImageRefused(
                f"{self._name}: the JPEG has more than {MAX_SEGMENTS} marker segments, far more than an image needs; "
                "save it again as a baseline JPEG"
            )
        if self._fill_bytes > MAX_FILL_BYTES:
            raise ImageRefused(
                f"{self._name}: the JPEG has more than {MAX_FILL_BYTES} fill bytes between its segments, far more than "
                "an image needs; save it again as a baseline JPEG"
            )


def _fill_bytes(jpeg: bytes, start: int, at: int) -> int:
    """Fill bytes that end at ``at``; more than ``MAX_FILL_BYTES`` are not all counted."""
    before = jpeg[max(start, at - MAX_FILL_BYTES - 1) : at] if jpeg[at - 1] == _FILL[0] else b""
    return len(before) - len(before.rstrip(_FILL))
