"""Damage that asks nothing of a file: bits, runs of bytes, truncation, blocks moved, repeated or left out, numbers."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

Mutation = Callable[[bytes, random.Random], bytes]

NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
_MOST = 512 * 1024  # bytes of a mutant


def flip_bits(data: bytes, choose: random.Random) -> bytes:
    """One to sixteen bits."""
    changed = bytearray(data)
    for _ in range(choose.choice((1, 1, 2, 4, 16))):
        changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, choose: random.Random) -> bytes:
    """A run of bytes by random or equal ones."""
    at, length = _block(data, choose)
    fill = choose.choice((b"\x00", b"\xff", bytes([choose.randrange(256)]), b"A"))
    run = choose.randbytes(length) if choose.random() < 0.5 else fill * length
    return data[:at] + run + data[at + length :]


def truncate(data: bytes, choose: random.Random) -> bytes:
    """Anywhere."""
    return data[: choose.randrange(len(data))]


def leave_out(data: bytes, choose: random.Random) -> bytes:
    """A run of bytes."""
    at, length = _block(data, choose)
    return data[:at] + data[at + length :]


def repeat(data: bytes, choose: random.Random) -> bytes:
    """A run of bytes, once to fifty times."""
    at, length = _block(data, choose)
    return data[:at] + data[at : at + length] * choose.choice((2, 2, 3, 50)) + data[at + length :]


def move(data: bytes, choose: random.Random) -> bytes:
    """A run of bytes to another place."""
    at, length = _block(data, choose)
    rest = data[:at] + data[at + length :]
    to = choose.randrange(len(rest) + 1)
    return rest[:to] + data[at : at + length] + rest[to:]


def append(data: bytes, choose: random.Random) -> bytes:
    """Random bytes behind the end."""
    return data + choose.randbytes(choose.choice((1, 7, 100))) * choose.choice((1, 1, 30))


def write_number(data: bytes, choose: random.Random) -> bytes:
    """A number at the edge of a type, of 1, 2 or 4 bytes in either order; in the first 1,000 bytes half of the time."""
    form = choose.choice("BHI")
    size = struct.calcsize(form)
    packed = struct.pack(choose.choice("<>") + form, choose.choice(NUMBERS) % 256**size)
    last = min(len(data), 1000) if choose.random() < 0.5 else len(data)
    at = choose.randrange(max(1, last - size))
    return data[:at] + packed + data[at + size :]


PLAIN: tuple[Mutation, ...] = (flip_bits, flip_bits, overwrite, truncate, leave_out, repeat, move, append, write_number)


def mutated(data: bytes, choose: random.Random, aware: tuple[Mutation, ...]) -> bytes:
    """One mutant: half of the time damaged by a mutation that knows the format, and now and then by several."""
    for _ in range(choose.choice((1, 1, 1, 1, 1, 2, 3))):
        if not data:
            break
        data = choose.choice(aware if aware and choose.random() < 0.6 else PLAIN)(data, choose)
    return data[:_MOST]


def _block(data: bytes, choose: random.Random) -> tuple[int, int]:
    at = choose.randrange(len(data))
    return at, min(len(data) - at, choose.choice((1, 2, 4, 8, 16, 64, 256, 1024)))
