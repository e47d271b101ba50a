"""The header of an encoded frame, read before a decoder sees it.

A DICOM file may say 64×64 and hold a JPEG that says 65535×65535, and a decoder allocates by the latter. Worse, GDCM
(the only permissive decoder of lossless JPEG) ends the process on some malformed headers instead of raising. So the
header must be consistent before it is handed on. Sources: ITU-T T.81 B.2 (JPEG), T.87 C.2 (JPEG-LS).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from medfm_compress.runtime.dicom.jpeg_2000 import coding_of, is_jpeg_2000
from medfm_compress.runtime.images.jpeg_markers import MAX_FILL_BYTES, MAX_SEGMENTS

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SOF_LOSSLESS, _SOF_JPEG_LS, _DHT, _SOS, _APP0, _APP14 = 0xC3, 0xF7, 0xC4, 0xDA, 0xE0, 0xEE
# Baseline, extended, progressive, lossless (all Huffman) and JPEG-LS; DICOM has no other process.
_FRAME_MARKERS = frozenset({0xC0, 0xC1, 0xC2, _SOF_LOSSLESS, _SOF_JPEG_LS})
_ADOBE_TRANSFORM_AT = 11
_ADOBE_NO_TRANSFORM = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"


class Extent(NamedTuple):
    """Height and width in pixels, and number of components."""

    height: int
    width: int
    components: int


class JpegHeader(NamedTuple):
    """What a JPEG or JPEG-LS frame says of itself before its first scan.

    Attributes:
        extent: height, width, components.
        precision: bits of a sample.
        is_dct: baseline, extended or progressive; not lossless, not JPEG-LS.
        process: the marker of the frame, SOFn.
        component_ids: one byte each.
        is_chroma_subsampled: the first of several components has more samples than another.
        is_jfif: an APP0 segment of JFIF (T.871): YCbCr where there are three components.
        adobe_transform: of an APP14 segment of Adobe (T.872 6.5.3): 0 none, 1 YCbCr, 2 YCCK; or None.
    """

    extent: Extent
    precision: int
    is_dct: bool
    process: int
    component_ids: bytes
    is_chroma_subsampled: bool
    is_jfif: bool
    adobe_transform: int | None


class _Segment(NamedTuple):
    marker: int
    body: bytes


def extent_of(frame: bytes) -> Extent | None:
    """What a JPEG, JPEG-LS or bare JPEG 2000 frame says of its own size, or None where its header is not consistent."""
    if is_jpeg_2000(frame):
        coding = coding_of(frame)
        return coding and Extent(coding.height, coding.width, coding.components)
    header = jpeg_header(frame)
    return header and header.extent


def is_complete(frame: bytes) -> bool:
    """Whether the frame ends with its end-of-image (or end-of-codestream) marker, but for padding.

    Zeros may follow, and before them one byte of any value, which some writers put there to make the length even.
    """
    return _EOI in frame.rstrip(b"\x00")[-3:]


def jpeg_header(frame: bytes) -> JpegHeader | None:
    """The header of a JPEG or JPEG-LS frame, or None where it is not consistent."""
    if frame[:2] != _SOI:
        return None
    segments = list(_segments(frame))
    frames = [segment for segment in segments if segment.marker in _FRAME_MARKERS]
    if len(frames) != 1 or not segments or segments[-1].marker != _SOS or len(frames[0].body) < 9:
        return None
    marker, body = frames[0]
    count = body[5]
    if len(body) != 6 + 3 * count or not _is_sampled(marker, body):
        return None
    if marker != _SOF_JPEG_LS and not _is_coded(segments, body):
        return None
    if any(segment.marker == _APP14 and not _is_adobe_known(segment.body) for segment in segments):
        return None
    adobe = [segment.body for segment in segments if segment.marker == _APP14 and segment.body[:5] == b"Adobe"]
    return JpegHeader(
        Extent(int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), count),
        precision=body[0],
        is_dct=marker not in (_SOF_LOSSLESS, _SOF_JPEG_LS),
        process=marker,
        component_ids=body[6::3],
        is_chroma_subsampled=len(set(body[7::3])) > 1,
        is_jfif=any(segment.marker == _APP0 and segment.body[:5] == b"JFIF\0" for segment in segments),
        adobe_transform=adobe[-1][_ADOBE_TRANSFORM_AT] if adobe else None,
    )


def without_colour_marks(frame: bytes) -> bytes:
    """A DCT frame whose decoders return the components as they are coded.

    JFIF and Adobe segments go, and one that says "no transform" comes. Decoders differ in which mark they believe, so
    a frame that says one thing only is the way to convert exactly once, here, and not in a decoder. The entropy-coded
    data stay as they are.
    """
    parts, at = [_SOI, _ADOBE_NO_TRANSFORM], 2
    for segment in _segments(frame):
        start = frame.index(b"\xff" + bytes([segment.marker]), at)
        at = start + 4 + len(segment.body)
        if segment.marker not in (_APP0, _APP14):
            parts.append(frame[start:at])
    return b"".join([*parts, frame[at:]])


def with_sequential_scan(frame: bytes) -> bytes:
    """A sequential frame of one scan that says so: all coefficients, 0 to 63, in full (T.81 table B.3).

    Some writers put other numbers there, which sequential decoders are free to ignore and complain of.
    """
    at = 2
    for segment in _segments(frame):
        at = frame.index(b"\xff" + bytes([segment.marker]), at) + 4 + len(segment.body)
    return frame[: at - 3] + b"\x00\x3f\x00" + frame[at:]


def _segments(frame: bytes) -> Iterator[_Segment]:
    """Marker segments up to and including the first start of scan; ends early at anything that is no marker.

    Also behind as many as `jpeg_markers.check_header` lets pass, which knows where other decoders see markers.
    """
    at = 2
    for _ in range(MAX_SEGMENTS):
        filled = frame[at : at + MAX_FILL_BYTES + 1]
        at += max(0, len(filled) - len(filled.lstrip(b"\xff")) - 1)
        if at + 4 > len(frame) or frame[at] != 0xFF:
            return
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        body = frame[at + 4 : at + 2 + length]
        if length < 2 or len(body) != length - 2:
            return
        yield _Segment(marker, body)
        if marker == _SOS:
            return
        at += 2 + length


def _is_sampled(marker: int, body: bytes) -> bool:
    """Precision 2 to 16 bits, sampling factors 1 to 4; 1 throughout where the process is lossless."""
    largest = 1 if marker in (_SOF_LOSSLESS, _SOF_JPEG_LS) else 4
    factors = body[7::3]
    sampled = all(1 <= side <= largest for byte in factors for side in (byte >> 4, byte & 15))
    return sampled and (2 <= body[0] <= 16 if largest == 1 else body[0] in (8, 12))


def _is_coded(segments: list[_Segment], frame_body: bytes) -> bool:
    """Whether the first scan names components of the frame and Huffman tables that were defined."""
    scan = segments[-1].body
    if not scan or len(scan) != 4 + 2 * scan[0]:
        return False
    tables: set[int] = set()
    for segment in segments:
        if segment.marker == _DHT:
            defined = _huffman_tables(segment.body)
            if not defined:
                return False
            tables |= defined
    selectors = scan[2 : 2 + 2 * scan[0] : 2]
    needed = {selector >> 4 for selector in selectors}
    return set(scan[1 : 1 + 2 * scan[0] : 2]) <= set(frame_body[6::3]) and needed <= tables


def _huffman_tables(body: bytes) -> set[int]:
    """Numbers of the DC or lossless tables of a DHT segment, and of its AC tables from 16 on; empty where damaged."""
    numbers, at = set(), 0
    while at + 17 <= len(body):
        counts = body[at + 1 : at + 17]
        # Kraft: more codes than a length can hold end GDCM's decoder.
        room = sum(count << (16 - length) for length, count in enumerate(counts, start=1))
        if room > 1 << 16:
            return set()
        numbers.add(body[at])
        at += 17 + sum(counts)
    return numbers if at == len(body) else set()


def _is_adobe_known(body: bytes) -> bool:
    """Colour transform 0 (none), 1 (YCbCr) or 2 (YCCK); other APP14 segments say nothing of colour."""
    return body[:5] != b"Adobe" or (len(body) > _ADOBE_TRANSFORM_AT and body[_ADOBE_TRANSFORM_AT] <= 2)
