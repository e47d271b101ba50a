"""Damage that knows DICOM: elements, VR and length, the attributes that decide about pixels, fragments, frames."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from mutate_bytes import NUMBERS, Mutation, mutated
from mutate_raster import damage_jpeg

_LONG = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_VR = (
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV ZZ".split()
)
_SYNTAXES = (
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"),
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91, 92, 100, 201, 202, 203)),
    *("1.2.840.10008.1.2.5", "1.2.3.4", "", "1.2.840.10008.1.2.4.50\0\0\0\0\0"),
)
_PHOTOMETRIC = (
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
    *("YBR_PARTIAL_420", "CMYK", "HSV", "", "RGB\\MONOCHROME2", "rgb"),
)
_TEXTS = ("", "\\", "0", "-1", "1e999", "nan", "1\\2\\3\\4", "NaN\\inf", "9" * 60, "\xff\xfe", "YES", "01", "DX", "SEG")
_SHORT_TAGS = (0x00280002, 0x00280006, 0x00280010, 0x00280011, 0x00280100, 0x00280101, 0x00280102, 0x00280103)
_TEXT_TAGS = (
    0x00280008,
    0x00281050,
    0x00281051,
    0x00281052,
    0x00281053,
    0x00080060,
    0x00281056,
    0x20500020,
    0x00082111,
)
_ITEM, _ENDING = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"


class Element(NamedTuple):
    """Where an element of the top level lies: its tag, first byte, first byte of its value, and end."""

    tag: int
    start: int
    value: int
    end: int


def elements(data: bytes) -> Iterator[Element]:
    """Elements of an explicit little endian file, up to the first thing that is none."""
    at = 132 if data[128:132] == b"DICM" else 0
    while at + 8 <= len(data):
        group, number = struct.unpack_from("<HH", data, at)
        is_long = data[at + 4 : at + 6] in _LONG
        if data[at + 4 : at + 6] not in _VR or at + 12 > len(data):
            return
        length = struct.unpack_from("<I" if is_long else "<H", data, at + (8 if is_long else 6))[0]
        value = at + (12 if is_long else 8)
        end = len(data) if length == 0xFFFFFFFF else min(len(data), value + length)
        yield Element(group << 16 | number, at, value, end)
        at = end


def _one(data: bytes, choose: random.Random, tags: tuple[int, ...] = ()) -> Element | None:
    there = [element for element in elements(data) if not tags or element.tag in tags]
    return choose.choice(there) if there else None


def change_vr(data: bytes, choose: random.Random) -> bytes:
    """Of any element."""
    element = _one(data, choose)
    return data if element is None else data[: element.start + 4] + choose.choice(_VR) + data[element.start + 6 :]


def change_length(data: bytes, choose: random.Random) -> bytes:
    """Of any element, by a little or to the edge of its type."""
    element = _one(data, choose)
    if element is None:
        return data
    form = "<I" if element.value - element.start == 12 else "<H"
    size = struct.calcsize(form)
    near = max(0, element.end - element.value + choose.choice((-2, -1, 1, 2)))
    length = choose.choice((near, choose.choice(NUMBERS))) % 256**size
    return data[: element.value - size] + struct.pack(form, length) + data[element.value :]


def drop_element(data: bytes, choose: random.Random) -> bytes:
    """Any one."""
    element = _one(data, choose)
    return data if element is None else data[: element.start] + data[element.end :]


def repeat_element(data: bytes, choose: random.Random) -> bytes:
    """Any one, once to forty times."""
    element = _one(data, choose)
    if element is None:
        return data
    return data[: element.end] + data[element.start : element.end] * choose.choice((1, 2, 40)) + data[element.end :]


def swap_elements(data: bytes, choose: random.Random) -> bytes:
    """Two neighbours, so that tags do not ascend."""
    there = list(elements(data))
    if len(there) < 3:
        return data
    at = choose.randrange(len(there) - 1)
    first, second = there[at], there[at + 1]
    return data[: first.start] + data[second.start : second.end] + data[first.start : first.end] + data[second.end :]


def change_number(data: bytes, choose: random.Random) -> bytes:
    """Rows, Columns, bits and the like."""
    element = _one(data, choose, _SHORT_TAGS)
    if element is None or element.end - element.value != 2:
        return data
    old = struct.unpack_from("<H", data, element.value)[0]
    value = choose.choice((choose.choice(NUMBERS), old + 1, old - 1, 2 * old, old // 2, choose.randrange(33))) % 65536
    return data[: element.value] + struct.pack("<H", value) + data[element.end :]


def change_text(data: bytes, choose: random.Random) -> bytes:
    """Photometric Interpretation, windows, rescale, modality and the like."""
    element = _one(data, choose, _TEXT_TAGS)
    words = _PHOTOMETRIC if element is not None and element.tag == 0x00280008 else _TEXTS
    return data if element is None else _with_value(data, element, choose.choice(words).encode("latin-1"))


def change_syntax(data: bytes, choose: random.Random) -> bytes:
    """To another transfer syntax, a private one or none."""
    element = _one(data, choose, (0x00020010,))
    return data if element is None else _with_value(data, element, choose.choice(_SYNTAXES).encode("ascii"))


def _with_value(data: bytes, element: Element, value: bytes) -> bytes:
    value += b" " * (len(value) % 2)
    head = data[element.start : element.value]
    head = head[:8] + struct.pack("<I", len(value)) if len(head) == 12 else head[:6] + struct.pack("<H", len(value))
    return data[: element.start] + head + value + data[element.end :]


def damage_fragments(data: bytes, choose: random.Random) -> bytes:
    """Items of encapsulated pixel data: lengths, split in two, dropped, repeated, ending missing or early."""
    places = [found.start() for found in re.finditer(re.escape(_ITEM), data)]
    if not places:
        return data
    at = choose.choice(places)
    length = struct.unpack_from("<I", data.ljust(at + 8, b"\0"), at + 4)[0]
    end = min(len(data), at + 8 + length)
    body = data[at + 8 : end]
    half = choose.randrange(len(body) + 1)
    halves = b"".join(_ITEM + struct.pack("<I", len(part)) + part for part in (body[:half], body[half:]))
    other = struct.pack("<I", choose.choice((length + 1, length - 1, *NUMBERS)) % 2**32)
    return choose.choice(
        (
            data[: at + 4] + other + data[at + 8 :],
            data[:at] + halves + data[end:],
            data[:at] + data[end:],
            data[:end] + data[at:end] * choose.choice((1, 3, 200)) + data[end:],
            data.replace(_ENDING, b"", 1),
            data[:at] + _ENDING + b"\0\0\0\0" + data[at:],
        )
    )


def damage_frame(data: bytes, choose: random.Random) -> bytes:
    """The compressed frame itself, so that it still lies in whole items."""
    at = data.rfind(_ITEM)
    if at < 0 or at + 8 > len(data):
        return data
    end = min(len(data), at + 8 + struct.unpack_from("<I", data, at + 4)[0])
    frame = data[at + 8 : end]
    if len(frame) < 4:
        return data
    frame = mutated(frame, choose, (damage_jpeg,))
    frame += b"\0" * (len(frame) % 2)
    return data[: at + 4] + struct.pack("<I", len(frame)) + frame + data[end:]


AWARE: tuple[Mutation, ...] = (
    *(change_vr, change_length, drop_element, repeat_element, swap_elements, change_number, change_number),
    *(change_text, change_syntax, damage_fragments, damage_frame, damage_frame),
)
