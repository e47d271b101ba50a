"""Whether a PNG, JPEG or TIFF holds all of its pixels, and a JPEG each of them only so often.

Decoders pass over missing pixels and fill them with black or grey, and go over all of them once more for each scan.

Sources: PNG (RFC 2083, chapters 2.3, 3.2 and 4.1.1), JPEG (ITU-T T.81, B.1.1.2 and F.2.2.5), TIFF 6.0 (StripOffsets).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.jpeg_markers import EOI, SOS, MarkerCount, check_header, markers
from medfm_compress.runtime.images.size_limits import MAX_PIXELS

if TYPE_CHECKING:
    from PIL.Image import Image

_PNG_SIGNATURE_BYTES = 8
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# First column, first row, and steps of the seven passes of Adam7 (RFC 2083, 2.6).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_INFLATE_PIECE = 64 * 1024
_MAX_CHUNKS = 100_000  # the largest image in IDAT chunks of 2 kB each; libpng makes them of 8 kB

_SOF_PROGRESSIVE = 0xC2
_COEFFICIENTS = 64
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_NOISE = bytes((37 * at + 91) % 251 for at in range(96))  # no 0xFF

_MAX_SCANS = 200  # each coefficient of three components in a scan of its own takes 192; encoders make some 10
_MAX_SCANNED_PIXELS = 20 * MAX_PIXELS  # about two seconds of scans without any data

_PLANAR_CONFIGURATION, _SEPARATE_PLANES = 284, 2


def check_parts(data: bytes, kind: str, name: str) -> None:
    """Refuse a JPEG of far more segments, or a PNG of far more chunks, than an image has, before each is looked at.

    Args:
        data: the whole file.
        kind: Pillow's name of its format; of others nothing is looked at.
        name: what to call it in an error.

    Raises:
        ImageRefused: there are more than 100 000 chunks, or more than `jpeg_markers.check_header` lets pass.
    """
    if kind == "JPEG":
        check_header(data, name)
    elif kind == "PNG" and next(islice(_chunks(data, with_crc=False), _MAX_CHUNKS, None), None) is not None:
        raise ImageRefused(
            f"{name}: the PNG file has more than {_MAX_CHUNKS} chunks, far more than its pixels need; export the image "
            "again"
        )


def check_png(data: bytes, name: str) -> None:
    """`check_chunks` and `check_rows`."""
    check_chunks(data, name)
    check_rows(data, name)


def check_chunks(data: bytes, name: str) -> None:
    """Refuse a PNG that is damaged or does not end.

    Raises:
        ImageRefused: a chunk ends early or fails its CRC, or there is no IEND.
    """
    ended = False
    for kind, _, is_intact in _chunks(data):
        if not is_intact:
            raise ImageRefused(f"{name}: a chunk of the PNG file is damaged (its CRC differs); export the image again")
        ended = kind == b"IEND"
    if not ended:
        raise ImageRefused(f"{name}: the PNG file is damaged, truncated: it has no end (IEND); copy it again")


def check_rows(data: bytes, name: str) -> None:
    """Refuse a PNG that lacks rows, which decoders leave black: all of it is inflated once more, and counted.

    Raises:
        ImageRefused: IDAT inflates to too few bytes.
    """
    parts, header = [], b""
    for kind, body, _ in _chunks(data, with_crc=False):
        header = bytes(body) if kind == b"IHDR" and not header else header
        if kind == b"IDAT":
            parts.append(body)
    expected = _filtered_bytes(header)
    if expected is None or _inflated_bytes(b"".join(parts), expected) < expected:
        raise ImageRefused(f"{name}: the PNG file is damaged, truncated: rows are missing; export the image again")


def _chunks(data: bytes, *, with_crc: bool = True) -> Iterator[tuple[bytes, memoryview, bool]]:
    """Type, data and whether the CRC agrees, for every whole chunk up to IEND; ``with_crc=False`` takes it to agree."""
    view, at = memoryview(data), _PNG_SIGNATURE_BYTES
    while at + 12 <= len(data):
        length = int.from_bytes(view[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(data):
            return
        kind, crc = bytes(view[at + 4 : at + 8]), int.from_bytes(view[end : end + 4], "big")
        yield kind, view[at + 8 : end], not with_crc or zlib.crc32(view[at + 4 : end]) == crc
        if kind == b"IEND":
            return
        at = end + 4


def _filtered_bytes(header: bytes | memoryview) -> int | None:
    """Bytes of all rows with their filter bytes (RFC 2083, 2.3), or None where IHDR is not one of PNG."""
    if len(header) != 13 or header[9] not in _PNG_CHANNELS:
        return None
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * _PNG_CHANNELS[header[9]]
    passes = _ADAM7 if header[12] else ((0, 0, 1, 1),)
    sizes = ((-(-(width - x) // step_x), -(-(height - y) // step_y)) for x, y, step_x, step_y in passes)
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


def _inflated_bytes(deflated: bytes, enough: int) -> int:
    """How many bytes it inflates to; counting stops at ``enough``, and holds one piece in memory."""
    inflater, total = zlib.decompressobj(), 0
    try:
        for at in range(0, len(deflated), _INFLATE_PIECE):
            total += len(inflater.decompress(deflated[at : at + _INFLATE_PIECE]))
            if total >= enough or inflater.eof:
                break
    except zlib.error:
        return 0
    return total


def with_noise_behind_scans(jpeg: bytes) -> bytes | None:
    """The JPEG with further entropy-coded bytes behind its last scan, or None where it has no end-of-image marker.

    A decoder that has all blocks passes over them. One that lacks blocks, and would fill them with mid-grey at the
    marker (F.2.2.5 leaves that open), takes them for the missing ones. So if the two pictures differ, blocks are
    missing. A restart marker stands among them, for a decoder that waits for one.
    """
    at = _end_of_scans(jpeg)
    if at is None:
        return None
    restarts = _RESTART.findall(jpeg, max(0, at - 2**16), at)
    due = bytes([0xD0 + (restarts[-1][1] + 1) % 8]) if restarts else b"\xd0"
    return jpeg[:at] + _NOISE + b"\xff" + due + _NOISE + jpeg[at:]


def has_end(jpeg: bytes) -> bool:
    """Whether a JPEG has an end-of-image marker."""
    return _end_of_scans(jpeg) is not None


def with_noise_for_end(jpeg: bytes) -> bytes | None:
    """The lossless JPEG with more entropy-coded bytes in place of its end-of-image marker, or None where it has none.

    GDCM, the one decoder of lossless JPEG, pads what is missing before the marker, and fails where data and marker are
    missing. So if this fails or gives another picture, samples are missing. No marker follows, since GDCM would write
    of the bytes before it to stderr.
    """
    at = _end_of_scans(jpeg)
    return None if at is None else jpeg[:at] + _NOISE


def lacks_scans(jpeg: bytes) -> bool:
    """Whether a progressive JPEG ends before every coefficient of every component came in full (T.81, G.1.1.1).

    Its scans bring bands of coefficients (Ss to Se) down to a bit (Al), which is 0 in the last scan of a band.
    """
    if bytes((0xFF, _SOF_PROGRESSIVE)) not in jpeg:  # looking for two bytes is a tenth of looking for all markers
        return False
    segments = list(_segments(jpeg))
    frame = next((body for marker, body in segments if marker == _SOF_PROGRESSIVE), b"")
    missing = {(component, index) for component in frame[6::3] for index in range(_COEFFICIENTS)}
    for marker, body in segments:
        if marker == SOS and _is_scan(body) and body[-1] & 15 == 0:
            missing -= {(part, index) for part in body[1:-3:2] for index in range(body[-3], body[-2] + 1)}
    return bool(missing)


def check_scans(jpeg: bytes, height: int, width: int, name: str) -> None:
    """Refuse a JPEG of far more scans than pixels need, before a decoder goes over the whole image for each of them.

    A scan without data takes ten bytes, and the time of one with data; one of several components is as many. Segments
    and fill bytes among the scans are counted along.

    Raises:
        ImageRefused: there are more than 200, or more than 20 of the largest image allowed, or more segments or fill
            bytes than `jpeg_markers` lets pass.
    """
    most = min(_MAX_SCANS, _MAX_SCANNED_PIXELS // max(1, height * width))
    scans, count = 0, MarkerCount(name)
    for marker in markers(jpeg):
        count.add(marker)
        if marker.code == SOS:
            body = jpeg[marker.at + 4 : marker.end]
            scans += max(1, body[0]) if _is_scan(body) else 1
        if scans > most:
            raise ImageRefused(
                f"{name}: the JPEG has more than {most} scans of {width}×{height} px, far more than its pixels need; "
                "save it again as a baseline JPEG"
            )


def _is_scan(body: bytes) -> bool:
    """Whether a start of scan is as long as its components say (T.81, B.2.3)."""
    return bool(body) and len(body) == 4 + 2 * body[0]


def _end_of_scans(jpeg: bytes) -> int | None:
    """Where the first image's EOI marker stands, fill bytes before it (T.81, B.1.1.2) and all, or None."""
    last = next((marker for marker in markers(jpeg) if marker.code == EOI), None)
    return None if last is None else last.at - last.filler


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment of the first image."""
    return ((marker.code, jpeg[marker.at + 4 : marker.end]) for marker in markers(jpeg))


def check_tiff(image: Image, name: str) -> None:
    """Refuse an opened, not yet loaded TIFF whose strips or tiles do not cover it; Pillow leaves the rest black.

    Raises:
        ImageRefused: some are missing.
    """
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    planes = len(image.getbands()) if tags.get(_PLANAR_CONFIGURATION) == _SEPARATE_PLANES else 1
    tiles: Any = image.tile  # type: ignore[attr-defined]
    if any(tile[0] != "raw" for tile in tiles):
        return  # libtiff asks for every strip and fails where one is missing
    covered = sum((right - left) * (lower - upper) for _, (left, upper, right, lower), *_ in tiles)
    if covered < planes * image.width * image.height:
        raise ImageRefused(f"{name}: the TIFF file is damaged, truncated: strips are missing; export the image again")
