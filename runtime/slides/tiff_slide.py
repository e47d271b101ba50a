"""A slide in a TIFF file, read tile by tile; whoever parses the file's directories gives its pages."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from types import TracebackType

import numpy as np

from medfm_compress.runtime.regular_file import open_regular
from medfm_compress.runtime.slides.slide import WHITE, Picture, RegionUnreadable, check_region, levels_of
from medfm_compress.runtime.slides.tiff_page import MAX_TILE_BYTES, TiffPage, decode_tile

_CACHE_BYTES = 48 << 20


class TiffSlide:
    """See `Slide`. Tiles that were decoded last are kept, up to 48 MiB: tiles of the network share them."""

    def __init__(self, path: Path, pages: list[TiffPage], um_per_px: tuple[float, float] | None, backend: str) -> None:
        self.name, self.backend, self.um_per_px = path.name, backend, um_per_px
        self.levels = levels_of([(page.width, page.height) for page in pages], path.name)
        self._pages = pages
        self._file = open_regular(path)
        self._cache: OrderedDict[tuple[int, int], Picture] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def read_region(self, x: int, y: int, level: int, width: int, height: int) -> Picture:
        """See `Slide`."""
        check_region(width, height, self.name)
        page = self._pages[level]
        region = np.full((height, width, 3), WHITE, np.uint8)
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, page.width), min(y + height, page.height)
        if left >= right or top >= bottom:
            return region
        for row in range(top // page.tile_height, -(-bottom // page.tile_height)):
            for column in range(left // page.tile_width, -(-right // page.tile_width)):
                tile = self._tile(level, row, column)
                tile_y, tile_x = row * page.tile_height, column * page.tile_width
                y0, y1 = max(top, tile_y), min(bottom, tile_y + tile.shape[0])
                x0, x1 = max(left, tile_x), min(right, tile_x + tile.shape[1])
                region[y0 - y : y1 - y, x0 - x : x1 - x] = tile[y0 - tile_y : y1 - tile_y, x0 - tile_x : x1 - tile_x]
        return region

    def _tile(self, level: int, row: int, column: int) -> Picture:
        page = self._pages[level]
        key = (level, row * page.across + column)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        tile = decode_tile(self._bytes(page, key[1]), page, row, f"{self.name}, level {level}, tile {key[1]}")
        with self._lock:
            if key not in self._cache:
                self._cache[key] = tile
                self._cached_bytes += tile.nbytes
            while self._cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return tile

    def _bytes(self, page: TiffPage, number: int) -> bytes:
        offset, count = int(page.offsets[number]), int(page.counts[number])
        if count <= 0:
            raise RegionUnreadable(f"{self.name}: tile {number} is not in the file")
        if count > MAX_TILE_BYTES or offset <= 0:
            raise RegionUnreadable(f"{self.name}: tile {number} has {count} bytes at {offset}; it is damaged")
        data = os.pread(self._file.fileno(), count, offset)
        if len(data) != count:
            raise RegionUnreadable(f"{self.name}: tile {number} lies beyond the end of the file, which is truncated")
        return data

    def close(self) -> None:
        """See `Slide`."""
        self._file.close()
        self._cache.clear()

    def __enter__(self) -> TiffSlide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
