"""One page of a TIFF file as tiles: where each is, and what its bytes become.

Only what a tile needs is read. Strips are tiles as wide as the page; strips without compression are cut into lower
ones, so that none is larger than what one may hold in memory. JPEG tiles are made whole files by the page's tables
(TIFF Technical Note 2) and go through the same checks as any JPEG; deflate is checked by its own sum; LZW and PackBits
go through libtiff, as a TIFF of one strip.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import ImageRefused, MedfmError, in_one_line
from medfm_compress.runtime.images.libtiff_errors import tiff_errors
from medfm_compress.runtime.images.read_raster import decode_raster
from medfm_compress.runtime.slides.slide import Picture, RegionUnreadable

MAX_TILE_BYTES = 64 << 20
_PLAIN_STRIP_BYTES = 1 << 20
NONE, LZW, JPEG, DEFLATE, PACKBITS, OLD_DEFLATE = 1, 5, 7, 8, 32773, 32946
_READ = (NONE, LZW, JPEG, DEFLATE, PACKBITS, OLD_DEFLATE)
_OTHERS = {6: "old-style JPEG", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 50001: "WebP"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _YCBCR = 0, 1, 2, 6
_HORIZONTAL = 2


class TiffPage(NamedTuple):
    """A page whose pixels are 8-bit grey or RGB, interleaved.

    Attributes:
        width, height: pixels.
        tile_width, tile_height: pixels; of strips the page's width, and rows a strip.
        is_tiled: whether the last tiles are stored in full.
        offsets, counts: bytes of each tile in the file, row by row.
        compression, photometric, predictor, samples: as their TIFF tags have them.
        jpeg_tables: tag 347; empty where there is none.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    is_tiled: bool
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    compression: int
    photometric: int
    predictor: int
    samples: int
    jpeg_tables: bytes

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_width)

    @property
    def down(self) -> int:
        """Rows of tiles."""
        return -(-self.height // self.tile_height)

    def rows_of(self, row: int) -> int:
        """Stored pixel rows of the tiles of one row: the last strip is lower."""
        return self.tile_height if self.is_tiled else min(self.tile_height, self.height - row * self.tile_height)


def checked_page(page: TiffPage, bits: tuple[int, ...], planar: int, name: str) -> TiffPage:
    """The page, its plain strips cut.

    Raises:
        ImageRefused: pixels of another kind, a compression that is not read, tiles too large or missing.
    """
    if set(bits) != {8} or page.samples not in (1, 3, 4) or planar != 1 or page.photometric not in (0, 1, 2, 6):
        raise ImageRefused(
            f"{name}: {page.samples} channels of {'/'.join(map(str, sorted(set(bits))))} bits, photometric "
            f"{page.photometric}, planar {planar}; a slide has 8-bit grey or RGB, interleaved"
        )
    if page.compression not in _READ:
        kind = _OTHERS.get(page.compression, "unknown")
        raise ImageRefused(
            f"{name}: compression {page.compression} ({kind}) is not read here; open it with OpenSlide, or write it "
            "again as JPEG, deflate or LZW tiles"
        )
    if min(page.tile_width, page.tile_height) < 1:
        raise ImageRefused(f"{name}: tiles of {page.tile_width}×{page.tile_height} px; it is damaged")
    page = _cut_strips(page)
    expected = page.across * page.down
    if len(page.offsets) != expected or len(page.counts) != expected:
        raise ImageRefused(f"{name}: {len(page.offsets)} tiles are listed and {expected} needed; it is damaged")
    size = page.tile_width * page.tile_height * page.samples
    if size > MAX_TILE_BYTES:
        raise ImageRefused(
            f"{name}: tiles or strips of {page.tile_width}×{page.tile_height} px; at most {MAX_TILE_BYTES >> 20} MiB "
            "each are decoded at once: write it again in tiles, e.g. of 256×256 px"
        )
    return page


def _cut_strips(page: TiffPage) -> TiffPage:
    """Strips without compression as lower ones; what is not one strip after the other stays as it is."""
    row_bytes = page.width * page.samples
    if page.is_tiled or page.compression != NONE or page.tile_height * row_bytes <= _PLAIN_STRIP_BYTES:
        return page
    rows = max(1, _PLAIN_STRIP_BYTES // row_bytes)
    whole = [page.rows_of(row) for row in range(page.down)]
    contiguous = len(page.offsets) == page.down and all(
        int(page.counts[row]) == whole[row] * row_bytes
        and (row + 1 == page.down or int(page.offsets[row + 1]) == int(page.offsets[row] + page.counts[row]))
        for row in range(page.down)
    )
    if not contiguous:
        return page
    starts = np.arange(0, page.height, rows, dtype=np.int64)
    counts = np.minimum(rows, page.height - starts) * row_bytes
    return page._replace(tile_height=rows, offsets=page.offsets[0] + starts * row_bytes, counts=counts)


def decode_tile(data: bytes, page: TiffPage, row: int, name: str) -> Picture:
    """uint8 ``[rows, tile_width, 3]`` of one tile's bytes; ``row`` is its row of tiles.

    Raises:
        RegionUnreadable: they are damaged.
    """
    shape = (page.rows_of(row), page.tile_width, page.samples)
    try:
        values = _decoded(data, page, shape, name)
    except MedfmError as exc:
        raise RegionUnreadable(f"{name}: {str(exc).removeprefix(f'{name}: ')}") from None
    except Exception as exc:  # noqa: BLE001 -- whatever decoders make of damaged bytes
        raise RegionUnreadable(f"{name}: a tile is damaged: {in_one_line(exc)}") from None
    if page.photometric == _WHITE_IS_ZERO:
        values = 255 - values
    return np.repeat(values, 3, axis=2) if page.samples == 1 else values[..., :3]


def _decoded(data: bytes, page: TiffPage, shape: tuple[int, int, int], name: str) -> Picture:
    if page.compression == JPEG:
        return _jpeg(data, page, shape, name)
    if page.compression in (LZW, PACKBITS):
        return _through_libtiff(data, page, shape)
    size = shape[0] * shape[1] * shape[2]
    plain = data if page.compression == NONE else _inflated(data, size)
    if len(plain) < size:
        raise ImageRefused(f"a tile has {len(plain)} of {size} bytes")
    values = np.frombuffer(plain, np.uint8, size).reshape(shape)
    return np.add.accumulate(values, axis=1, dtype=np.uint8) if page.predictor == _HORIZONTAL else values


def _inflated(data: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    plain = stream.decompress(data, size)
    if not stream.eof and stream.decompress(stream.unconsumed_tail, 1):
        raise ImageRefused("a tile holds more than its size")
    if not stream.eof:
        raise ImageRefused("a tile is truncated")
    return plain


def _jpeg(data: bytes, page: TiffPage, shape: tuple[int, int, int], name: str) -> Picture:
    """A JPEG tile with the page's tables; its colour transform is what the page says, in an Adobe marker."""
    if not data.startswith(b"\xff\xd8"):
        raise ImageRefused("a tile is no JPEG")
    tables = page.jpeg_tables[2:-2] if page.jpeg_tables[:2] == b"\xff\xd8" else b""
    marker = b""
    if page.samples == 3:
        transform = 1 if page.photometric == _YCBCR else 0
        marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    # The tile's own marker, if it has one, comes later and counts.
    values = decode_raster(b"\xff\xd8" + marker + tables + data[2:], name).values
    values = values[..., None] if values.ndim == 2 else values
    if values.shape != shape:
        raise ImageRefused(f"a tile is {values.shape[1]}×{values.shape[0]} px, not {shape[1]}×{shape[0]}")
    return np.asarray(values, np.uint8)


def _through_libtiff(data: bytes, page: TiffPage, shape: tuple[int, int, int]) -> Picture:
    from PIL.TiffImagePlugin import TiffImageFile

    tags = {
        256: shape[1], 257: shape[0], 259: page.compression, 262: _RGB if page.samples > 1 else _BLACK_IS_ZERO,
        273: 0, 277: shape[2], 278: shape[0], 279: len(data), 284: 1, 317: page.predictor,
    }  # fmt: skip
    if shape[2] == 4:
        tags[338] = 0
    count = len(tags) + 1
    bits_at = 8 + 2 + 12 * count + 4
    tags[273] = bits_at + 2 * shape[2]
    bits = (258, 3, shape[2], 8 if shape[2] == 1 else bits_at)
    entries = sorted([(tag, 4, 1, value) for tag, value in tags.items()] + [bits])
    head = struct.pack("<2sHIH", b"II", 42, 8, count)
    head += b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0\0\0\0"
    with tiff_errors() as errors, TiffImageFile(io.BytesIO(head + struct.pack("<H", 8) * shape[2] + data)) as image:
        image.load()
        values = np.asarray(image, np.uint8).reshape(shape)
    if errors.count:
        raise ImageRefused("the pixels of a tile are damaged")
    return values
