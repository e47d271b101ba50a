"""The size an encoded frame claims for itself, read before a decoder allocates by it.

A DICOM file may say 64×64 and hold a JPEG that says 65535×65535. Sources: ITU-T T.81 B.2.2 (JPEG), T.87 C.2.2
(JPEG-LS), T.800 A.5.1 (JPEG 2000).
"""

from __future__ import annotations

from typing import NamedTuple

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOC_SIZ = b"\xff\x4f\xff\x51"
# SOF0 to SOF15 without DHT (C4), JPG (C8) and DAC (CC); F7 is JPEG-LS.
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})
_FILL = 0xFF


class Extent(NamedTuple):
    """Height and width in pixels, and number of components."""

    height: int
    width: int
    components: int


def extent_of(frame: bytes) -> Extent | None:
    """What a JPEG, JPEG-LS or JPEG 2000 frame says of its own size, or None where it says nothing that can be read."""
    if frame[:2] == _SOI:
        return _jpeg_extent(frame)
    start = frame.find(_SOC_SIZ, 0, 4096)  # behind the boxes of a JP2 file
    if start < 0 or len(frame) < start + 42:
        return None
    # SOC, SIZ, Lsiz (2), Rsiz (2), then four-byte Xsiz, Ysiz, XOsiz, YOsiz, four tile fields, and Csiz (2).
    x, y, x0, y0 = (int.from_bytes(frame[start + at : start + at + 4], "big") for at in (8, 12, 16, 20))
    return Extent(y - y0, x - x0, int.from_bytes(frame[start + 40 : start + 42], "big"))


def is_complete(frame: bytes) -> bool:
    """Whether the frame ends with its end-of-image (or end-of-codestream) marker, but for padding.

    Zeros may follow, and before them one byte of any value, which some writers put there to make the length even.
    """
    return _EOI in frame.rstrip(b"\x00")[-3:]


def _jpeg_extent(frame: bytes) -> Extent | None:
    at = 2
    while at + 10 <= len(frame):
        if frame[at] != _FILL:
            return None
        marker = frame[at + 1]
        if marker in _FRAME_MARKERS:
            height, width = (int.from_bytes(frame[at + k : at + k + 2], "big") for k in (5, 7))
            return Extent(height, width, frame[at + 9])
        if marker == _FILL:
            at += 1
        elif marker in _STANDALONE:
            at += 2
        else:
            at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None
