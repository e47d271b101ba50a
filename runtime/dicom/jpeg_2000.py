"""JPEG 2000 frames: the boxes of a JP2 file around the code stream, and what its main header says of colour.

DICOM wants the bare code stream (PS3.5 A.4.4: the JP2 header shall not be included), but some writers wrap it in a JP2
file, and the parsers of decoders loop for ever on a box whose length is damaged. So the boxes are walked here, and
decoders get the code stream alone. Sources: ITU-T T.800 A.4 to A.6 (markers), I.4 and I.5 (boxes).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Literal, NamedTuple

SIGNATURE = b"\x00\x00\x00\x0cjP  \r\n\x87\n"

Colour = Literal["RGB", "YBR", "grey", "other"]

_SOC_SIZ = b"\xff\x4f\xff\x51"
_SOT, _SOD, _SIZ, _COD = 0x90, 0x93, 0x51, 0x52
_SOT_MARKER, _SOT_BYTES = b"\xff\x90", 12
_SIZ_BYTES = 38  # SIZ without its components: marker's length field to Csiz
_MAX_BOXES = 256
_MAX_SEGMENTS = 1000  # 255 of each of PPM, TLM and PLM, and some for each component (A.3, table A.2)
_MAX_TILE_PARTS = 100_000
_MAX_TILE_SEGMENTS = 100_000  # in the headers of all tile-parts
_ENUMERATED = 1
_COLOURS: dict[int, Colour] = {16: "RGB", 17: "grey", 18: "YBR"}


class Wrapped(NamedTuple):
    """A bare code stream, and what the JP2 boxes around it said.

    Attributes:
        code_stream: from SOC on.
        colour: of the decoded components, by the first ``colr`` box; None where there is none.
        is_remapped: a palette, or channels in another order or with another meaning than red, green, blue.
    """

    code_stream: bytes
    colour: Colour | None = None
    is_remapped: bool = False


class Coding(NamedTuple):
    """Height, width, components, least bits of one, whether one is signed or subsampled (SIZ); default style (COD)."""

    height: int
    width: int
    components: int
    precision: int
    is_signed: bool
    is_subsampled: bool
    has_colour_transform: bool
    is_reversible: bool


class _Box(NamedTuple):
    kind: bytes
    body: memoryview


def is_jpeg_2000(frame: bytes) -> bool:
    """Whether the frame begins like a code stream or like a JP2 file."""
    return frame.startswith((_SOC_SIZ, SIGNATURE[:8]))


def unwrap(frame: bytes) -> Wrapped | None:
    """The code stream of a JPEG 2000 frame, or None where its boxes are damaged or hold none (I.4, I.5.4)."""
    if frame.startswith(_SOC_SIZ):
        return Wrapped(frame)
    boxes = _boxes(memoryview(frame)) if frame.startswith(SIGNATURE) else None
    streams = [box.body for box in boxes or () if box.kind == b"jp2c"]
    headers = [box.body for box in boxes or () if box.kind == b"jp2h"]
    if len(streams) != 1 or len(headers) > 1 or streams[0][:4] != _SOC_SIZ:
        return None
    inner = _boxes(headers[0]) if headers else []
    if inner is None:
        return None
    colours = [_colour(box.body) for box in inner if box.kind == b"colr"]
    remapped = any(box.kind in (b"pclr", b"cmap") or _is_reordered(box) for box in inner)
    return Wrapped(bytes(streams[0]), colours[0] if colours else None, remapped)


def _boxes(data: memoryview) -> list[_Box] | None:
    """Boxes that lie one behind the other, not those inside them; None where a length cannot be (I.4).

    LBox is 0 (the rest of the file; the last box only), 1 (eight bytes of XLBox follow), or the whole length from 8 on.
    Every step advances by 8 bytes or more, so this ends.
    """
    boxes: list[_Box] = []
    at = 0
    while at + 8 <= len(data):
        length, kind, header = int.from_bytes(data[at : at + 4], "big"), bytes(data[at + 4 : at + 8]), 8
        if length == 1:
            length, header = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif length == 0:
            length = len(data) - at
        if length < header or length > len(data) - at or len(boxes) == _MAX_BOXES:
            # Up to seven zeros or so may pad the frame behind the last box, but never the start of a box.
            return None if any(data[at:]) else boxes
        boxes.append(_Box(kind, data[at + header : at + length]))
        at += length
    return boxes


def _colour(body: memoryview) -> Colour:
    """Colour specification box (I.5.3.3): METH, PREC, APPROX, then EnumCS; an ICC profile's own colour space."""
    if len(body) >= 7 and body[0] == _ENUMERATED:
        return _COLOURS.get(int.from_bytes(body[3:7], "big"), "other")
    spaces: dict[bytes, Colour] = {b"RGB ": "RGB", b"YCbr": "YBR", b"GRAY": "grey"}
    return spaces.get(bytes(body[19:23]), "other")  # ICC.1 7.2.6: at 16 in the profile


def _is_reordered(box: _Box) -> bool:
    """Channel definition box (I.5.3.6) other than: channel i is colour i + 1."""
    if box.kind != b"cdef":
        return False
    words = [int.from_bytes(box.body[at : at + 2], "big") for at in range(0, len(box.body), 2)]
    entries = list(zip(words[1::3], words[2::3], words[3::3], strict=False))
    return any(kind != 0 or colour not in (0, channel + 1) for channel, kind, colour in entries)


def has_too_many_segments(code_stream: bytes) -> bool:
    """Whether its main header has more than 1000 marker segments, or those of its tile-parts 100 000 in all."""
    limited = ((_segments(code_stream), _MAX_SEGMENTS), (_tile_segments(code_stream), _MAX_TILE_SEGMENTS))
    return any(next(islice(segments, most, None), None) is not None for segments, most in limited)


def coding_of(code_stream: bytes) -> Coding | None:
    """What the main header says (A.4.1, A.5.1, A.6.1), or None where it or the header of a tile contradicts it."""
    main = list(_segments(code_stream))
    segments = dict(main)
    if any([marker for marker, _ in main].count(once) > 1 for once in (_SIZ, _COD)):
        return None  # decoders differ in which they believe
    siz, cod = segments.get(_SIZ), segments.get(_COD)
    if siz is None or cod is None or len(siz) < _SIZ_BYTES - 2 or len(cod) < 10 or cod[4] > 1 or cod[9] > 1:
        return None
    x, y, x0, y0 = (int.from_bytes(siz[at : at + 4], "big") for at in (2, 6, 10, 14))
    components = int.from_bytes(siz[34:36], "big")
    if len(siz) != _SIZ_BYTES - 2 + 3 * components or components == 0 or x <= x0 or y <= y0:
        return None
    if any(len(style) < 10 or (style[4], style[9]) != (cod[4], cod[9]) for style in _tile_styles(code_stream)):
        return None
    steps = siz[37::3] + siz[38::3]
    depths = siz[36::3]  # Ssiz: the sign, and the bits less 1
    return Coding(
        height=y - y0,
        width=x - x0,
        components=components,
        precision=min(1 + (depth & 0x7F) for depth in depths),
        is_signed=any(depth & 0x80 for depth in depths),
        is_subsampled=any(step != 1 for step in steps),
        has_colour_transform=cod[4] == 1,
        is_reversible=cod[9] == 1,
    )


def _tile_styles(code_stream: bytes) -> Iterator[bytes]:
    """COD segments in the headers of tile-parts, which override the main header for their tile (A.4.2, A.6.1)."""
    return (body for marker, body in _tile_segments(code_stream) if marker == _COD)


def _tile_segments(code_stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment in the headers of tile-parts."""
    at = _end_of_segments(code_stream, 2)
    for _ in range(_MAX_TILE_PARTS):
        if code_stream[at : at + 2] != _SOT_MARKER:
            return
        # SOT, Lsot (2), Isot (2), Psot (4): the length of the tile-part, 0 in the last one.
        length = int.from_bytes(code_stream[at + 6 : at + 10], "big")
        yield from _segments(code_stream, at + _SOT_BYTES)
        if length < _SOT_BYTES:
            return
        at += length


def _end_of_segments(code_stream: bytes, at: int) -> int:
    return at + sum(4 + len(body) for _, body in _segments(code_stream, at))


def _segments(code_stream: bytes, at: int = 2) -> Iterator[tuple[int, bytes]]:
    """Marker and body of each segment of a header, up to the first tile-part (SOT) or the data of one (SOD)."""
    while at + 4 <= len(code_stream) and code_stream[at] == 0xFF and code_stream[at + 1] not in (_SOT, _SOD):
        length = int.from_bytes(code_stream[at + 2 : at + 4], "big")
        body = code_stream[at + 4 : at + 2 + length]
        if length < 2 or len(body) != length - 2:
            return
        yield code_stream[at + 1], body
        at += 2 + length
