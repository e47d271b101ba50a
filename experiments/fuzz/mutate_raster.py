"""Damage that knows PNG chunks, JPEG and JPEG 2000 markers, TIFF directories, BMP headers and JP2 boxes."""

from __future__ import annotations

import random
import struct
import zlib

from mutate_bytes import NUMBERS, Mutation, flip_bits

_PNG, _JP2 = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x0cjP  "
_CHUNKS = (b"tRNS", b"PLTE", b"gAMA", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"zTXt", b"iTXt", b"sBIT", b"pHYs", b"IDAT")
_MARKERS = (0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE, 0xD9, 0x51, 0x52)
_TAGS = (
    254,
    255,
    256,
    257,
    258,
    259,
    262,
    266,
    273,
    274,
    277,
    278,
    279,
    282,
    284,
    317,
    320,
    322,
    323,
    324,
    325,
    338,
    339,
)


def damage_png(data: bytes, choose: random.Random) -> bytes:
    """A chunk changed, moved, repeated, left out or renamed, with a CRC that fits, so that a decoder gets to see it."""
    if not data.startswith(_PNG):
        return flip_bits(data, choose)
    chunks = _png_chunks(data)
    if not chunks:
        return data
    at = choose.randrange(len(chunks))
    kind, body = chunks[at]
    action = choose.randrange(7)
    if action == 0:
        chunks[at] = (kind, _edited(body, choose))
    elif action == 1:
        chunks.insert(choose.randrange(len(chunks)), chunks[at])
    elif action == 2:
        del chunks[at]
    elif action == 3:
        chunks[at] = (choose.choice(_CHUNKS), body)
    elif action == 4:
        chunks.insert(at, (choose.choice(_CHUNKS), choose.randbytes(choose.randrange(60))))
    elif action == 5 and kind == b"IDAT":
        chunks[at] = (kind, _deflated(body, choose))
    else:
        chunks[0] = (b"IHDR", _header(chunks[0][1], choose))
    return _PNG + b"".join(_png_chunk(kind, body) for kind, body in chunks)


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], len(_PNG)
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _header(body: bytes, choose: random.Random) -> bytes:
    if len(body) != 13:
        return body
    fields = list(struct.unpack(">IIBBBBB", body))
    at = choose.randrange(7)
    fields[at] = choose.choice((*NUMBERS, fields[at] + 1, 2 * fields[at], 3, 4, 6, 16)) % (2**32 if at < 2 else 256)
    return struct.pack(">IIBBBBB", *fields)


def _deflated(body: bytes, choose: random.Random) -> bytes:
    """The same rows, some of their bytes changed, and perhaps many more or fewer of them."""
    try:
        rows = zlib.decompress(body)
    except zlib.error:
        return body
    rows = _edited(rows, choose) if choose.random() < 0.6 else rows[: choose.randrange(len(rows) + 1)]
    return zlib.compress(rows * choose.choice((1, 1, 1, 40)))


def _edited(body: bytes, choose: random.Random) -> bytes:
    return flip_bits(body, choose) if body and choose.random() < 0.7 else body[: len(body) // 2] + choose.randbytes(3)


def damage_jpeg(data: bytes, choose: random.Random) -> bytes:
    """A segment of a JPEG, JPEG-LS or JPEG 2000 code stream: its marker, length, body, its place; or the coded data."""
    segments = _segments(data)
    if not segments:
        return flip_bits(data, choose) if data else data
    at, end = choose.choice(segments)
    first, last = choose.choice(segments)
    behind = segments[-1][1]
    length = choose.choice((*NUMBERS, end - at - 2 + choose.choice((-1, 1, 2)))) % 65536
    changed = [
        data[: at + 1] + bytes([choose.choice(_MARKERS)]) + data[at + 2 :],
        data[: at + 2] + struct.pack(">H", length) + data[at + 4 :],
        data[:at] + data[end:],
        data[:end] + data[at:end] + data[end:],
        data[:at] + data[first:last] + data[end:],
    ]
    if end > at + 4:
        changed += [data[: at + 4] + flip_bits(data[at + 4 : end], choose) + data[end:]] * 2
    if behind < len(data):
        changed += [data[:behind] + flip_bits(data[behind:], choose)] * 2
    return choose.choice(changed)


def _segments(data: bytes) -> list[tuple[int, int]]:
    """First byte and end of the segments that follow one another from the second byte on."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (0x90, 0x93, 0xD9):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((at, min(end, len(data))))
        if data[at + 1] == 0xDA:
            break
        at = end
    return segments


def damage_tiff(data: bytes, choose: random.Random) -> bytes:
    """An entry of the first directory: tag, type, count or value; or where the directory and its successor lie."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    if not order or len(data) < 10:
        return flip_bits(data, choose)
    start = struct.unpack_from(order + "I", data, 4)[0]
    if start + 2 > len(data):
        return data
    count = struct.unpack_from(order + "H", data, start)[0]
    changed = bytearray(data)
    at = start + 2 + 12 * choose.randrange(max(1, min(count, 64)))
    numbers = (*NUMBERS, len(data), len(data) - 1, start)
    place, form, value = choose.choice(
        (
            (at, "H", choose.choice(_TAGS)),
            (at + 2, "H", choose.randrange(20)),
            (at + 4, "I", choose.choice(numbers)),
            (at + 8, "I", choose.choice(numbers)),
            (at + 8, "H", choose.choice((*NUMBERS, 5, 6, 32773, 34712, 50001)) % 65536),
            (start, "H", choose.choice((0, 1, count + 1, 65535))),
            (4, "I", choose.choice(numbers)),
            (start + 2 + 12 * count, "I", choose.choice(numbers)),
        )
    )
    if place + struct.calcsize(form) <= len(changed):
        struct.pack_into(order + form, changed, place, value % 256 ** struct.calcsize(form))
    return bytes(changed)


def damage_bmp(data: bytes, choose: random.Random) -> bytes:
    """A number of the header."""
    if len(data) < 54:
        return data
    at, form = choose.choice(
        ((2, "I"), (10, "I"), (14, "I"), (18, "i"), (22, "i"), (26, "H"), (28, "H"), (30, "I"), (46, "I"))
    )
    changed = bytearray(data)
    value = choose.choice((*NUMBERS, 4, 12, 24, 32, 40, 56, 108, 124)) % (65536 if form == "H" else 2**31)
    struct.pack_into("<" + form, changed, at, -value if form == "i" and choose.random() < 0.3 else value)
    return bytes(changed)


def damage_boxes(data: bytes, choose: random.Random) -> bytes:
    """JP2 boxes: length, kind, dropped, repeated."""
    places, at = [], 0
    while at + 8 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        places.append((at, min(len(data), at + (length or len(data)))))
        if length < 8:
            break
        at += length
    at, end = choose.choice(places)
    action = choose.randrange(4)
    if action == 0:
        return data[:at] + struct.pack(">I", choose.choice(NUMBERS)) + data[at + 4 :]
    if action == 1:
        return data[: at + 4] + choose.choice((b"jp2c", b"jp2h", b"ftyp", b"colr", b"uuid")) + data[at + 8 :]
    return data[:at] + data[end:] if action == 2 else data[:end] + data[at:end] + data[end:]


def damage(data: bytes, choose: random.Random) -> bytes:
    """By the mutation of the format that the file is in."""
    table = {
        _PNG: damage_png,
        b"\xff\xd8": damage_jpeg,
        b"\xff\x4f": damage_jpeg,
        b"II": damage_tiff,
        b"MM": damage_tiff,
    }
    table |= {b"BM": damage_bmp, _JP2: damage_boxes}
    chosen: Mutation = next((own for magic, own in table.items() if data.startswith(magic)), flip_bits)
    return chosen(data, choose)


AWARE: tuple[Mutation, ...] = (damage,)
