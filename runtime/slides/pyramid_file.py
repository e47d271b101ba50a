"""Write a picture larger than memory as a pyramidal tiled TIFF (BigTIFF), the same bytes for the same pixels.

Level 0 is asked for tile by tile; every further level is made of four tiles of the one before, read back from the file.
So a few tiles are in memory, whatever the size. Levels follow each other as pages of reduced resolution (NewSubfileType
1), as viewers of slides expect. Format: TIFF 6.0; BigTIFF as libtiff has it.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.atomic_write import replacing

Grey = NDArray[np.uint8]
Tile = NDArray[np.uint8]
"""``[256, 256]``, or ``[256, 256, samples]``."""
TILE_PX = 256
_SMALLEST_PX = 512
_SHORT, _LONG, _ASCII, _RATIONAL, _LONG8 = 3, 4, 2, 5, 16
_CENTIMETRE = 3


class TileFormat(NamedTuple):
    """How tiles stand in the file.

    Attributes:
        shape: of a tile's pixels.
        tags: TIFF's, of what is in the file: bits (258), compression (259), photometric (262), samples (277) …
        encode: pixels → bytes.
        decode: bytes → pixels, as a flat array.
    """

    shape: tuple[int, ...]
    tags: dict[int, tuple[int, ...]]
    encode: Callable[[Tile], bytes]
    decode: Callable[[bytes], Tile]


def _deflate(tile: Tile) -> bytes:
    return zlib.compress(np.ascontiguousarray(tile).tobytes(), 6)


def _inflate(data: bytes) -> Tile:
    return np.frombuffer(zlib.decompress(data), np.uint8)


GREY = TileFormat((TILE_PX, TILE_PX), {258: (8,), 259: (8,), 262: (1,), 277: (1,)}, _deflate, _inflate)


class _Level(NamedTuple):
    height: int
    width: int
    offsets: list[int]
    counts: list[int]

    @property
    def grid(self) -> tuple[int, int]:
        return -(-self.height // TILE_PX), -(-self.width // TILE_PX)


def write_pyramid(
    path: Path,
    shape: tuple[int, int],
    tile_of: Callable[[int, int], Tile],
    reduce: Callable[[Tile], Tile],
    *,
    um_per_px: tuple[float, float],
    description: str,
    form: TileFormat = GREY,
) -> None:
    """Write one 8-bit picture of ``shape`` (height, width).

    Args:
        path: of the file; whole or absent.
        shape: of level 0.
        tile_of: (row, column) → one tile of level 0, asked row by row; what lies beyond the picture is 0.
        reduce: four tiles side by side → one.
        um_per_px: of level 0, (across, down).
        description: ASCII.
        form: of the tiles; by default grey, deflated.

    Raises:
        InputError: it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w+b") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        levels = [_write_level(file, shape, tile_of, form)]
        while max(levels[-1].height, levels[-1].width) > _SMALLEST_PX:
            last = levels[-1]
            size = -(-last.height // 2), -(-last.width // 2)
            levels.append(_write_level(file, size, _from_level(file, last, reduce, form), form))
        link = 8
        for number, level in enumerate(levels):
            scale = tuple(value * 2**number for value in um_per_px)
            link = _write_directory(file, link, level, number > 0, (scale[0], scale[1]), description, form)


def _write_level(
    file: BinaryIO, shape: tuple[int, int], tile_of: Callable[[int, int], Tile], form: TileFormat
) -> _Level:
    level = _Level(*shape, [], [])
    for row in range(level.grid[0]):
        for column in range(level.grid[1]):
            data = form.encode(tile_of(row, column))
            level.offsets.append(file.seek(0, io.SEEK_END))
            level.counts.append(len(data))
            file.write(data)
    return level


def _from_level(
    file: BinaryIO, level: _Level, reduce: Callable[[Tile], Tile], form: TileFormat
) -> Callable[[int, int], Tile]:
    return lambda row, column: reduce(_four(file, level, (row, column), form))


def _four(file: BinaryIO, level: _Level, place_of: tuple[int, int], form: TileFormat) -> Tile:
    """The four tiles of ``level`` that one of the next level shows, side by side; 0 beyond the picture."""
    row, column = place_of
    block = np.zeros((2 * TILE_PX, 2 * TILE_PX, *form.shape[2:]), np.uint8)
    for y in range(2):
        for x in range(2):
            r, c = 2 * row + y, 2 * column + x
            if r < level.grid[0] and c < level.grid[1]:
                number = r * level.grid[1] + c
                file.seek(level.offsets[number])
                tile = form.decode(file.read(level.counts[number]))
                place = slice(y * TILE_PX, (y + 1) * TILE_PX), slice(x * TILE_PX, (x + 1) * TILE_PX)
                block[place] = tile.reshape(form.shape)
    return block


def _write_directory(
    file: BinaryIO, link: int, level: _Level, reduced: bool, um_per_px: tuple[float, float], text: str, form: TileFormat
) -> int:
    """Append the level's directory and let ``link`` point to it; where its own link to the next one is."""
    shorts = form.tags | {296: (_CENTIMETRE,)}
    entries = [
        (254, _LONG, 1, struct.pack("<I", int(reduced))),
        (256, _LONG, 1, struct.pack("<I", level.width)),
        (257, _LONG, 1, struct.pack("<I", level.height)),
        (270, _ASCII, len(text) + 1, text.encode("ascii") + b"\0"),
        (282, _RATIONAL, 1, _per_centimetre(um_per_px[0])),
        (283, _RATIONAL, 1, _per_centimetre(um_per_px[1])),
        (322, _LONG, 1, struct.pack("<I", TILE_PX)),
        (323, _LONG, 1, struct.pack("<I", TILE_PX)),
        (324, _LONG8, len(level.offsets), struct.pack(f"<{len(level.offsets)}Q", *level.offsets)),
        (325, _LONG8, len(level.counts), struct.pack(f"<{len(level.counts)}Q", *level.counts)),
        *((tag, _SHORT, len(values), struct.pack(f"<{len(values)}H", *values)) for tag, values in shorts.items()),
    ]
    entries.sort()
    places = []
    for _, _, _, value in entries:
        places.append(file.seek(0, io.SEEK_END))
        if len(value) > 8:
            file.write(value + b"\0" * (-len(value) % 8))
    start = file.seek(0, io.SEEK_END)
    file.write(struct.pack("<Q", len(entries)))
    for (tag, kind, count, value), place in zip(entries, places, strict=True):
        held = value.ljust(8, b"\0") if len(value) <= 8 else struct.pack("<Q", place)
        file.write(struct.pack("<HHQ", tag, kind, count) + held)
    next_link = file.tell()
    file.write(struct.pack("<Q", 0))
    file.seek(link)
    file.write(struct.pack("<Q", start))
    return next_link


def _per_centimetre(um_per_px: float) -> bytes:
    return struct.pack("<II", round(10_000 / um_per_px * 1000), 1000)
