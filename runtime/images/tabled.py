"""Grey values that are looked up in a table where they are asked for: what a large image is prepared from at once.

A radiograph has some ten million codes, and at most 65,536 of them differ. Whoever needs numbers of another kind than
the table's (float64 where rows are shortened) gives the table in that kind: converting its entries takes a thousandth
of converting the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_AT_ONCE = 16 * 1024  # values; their indices take 128 KiB of the processor's cache


class Tabled:
    """A grey image as codes, and a table of its values.

    Attributes:
        codes: ``[height, width]``, unsigned, below the length of ``table``.
        table: an unsigned integer for every code.
    """

    __slots__ = ("_values", "codes", "table")

    def __init__(self, codes: NDArray[Any], table: NDArray[Any]) -> None:
        self.codes, self.table = codes, table
        self._values: NDArray[Any] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.codes.shape

    @property
    def values(self) -> NDArray[Any]:
        """``[height, width]`` of the table's type; looked up at the first time and kept."""
        if self._values is None:
            values = np.empty(self.codes.shape, self.table.dtype)
            look_up(self.table, self.codes, values)
            self._values = values
        return self._values


def look_up(table: NDArray[Any], codes: NDArray[Any], found: NDArray[Any]) -> None:
    """``found[:] = table[codes]``, without a full-size copy of the codes as indices.

    Args:
        table: an entry for every code.
        codes: unsigned, below the length of ``table``; contiguous.
        found: of the shape of ``codes`` and the type of ``table``; contiguous.
    """
    given, entries = codes.reshape(-1), found.reshape(-1)
    indices = np.empty(min(_AT_ONCE, given.size), np.intp)
    for start in range(0, given.size, _AT_ONCE):
        part = given[start : start + _AT_ONCE]
        np.copyto(indices[: part.size], part)
        # "clip", since numpy gives up its output buffer for "raise"; no code is beyond the table.
        table.take(indices[: part.size], out=entries[start : start + part.size], mode="clip")
