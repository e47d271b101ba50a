"""Maps of a slide out of the answers of its tiles, block by block.

    P_k(c) = Σ_t w_t(c) p_tk(c) / Σ_t w_t(c)         over the tiles t that show cell c and were answered

A heat map stores P as 1 + rint(254 P), and 0 where no tile was answered: glass, or what could not be read. A label map
stores 0 for the background, k for the k-th structure where it is the most probable, and 255 where no tile was answered.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.segmentation.label_map import label_map_of
from medfm_compress.runtime.slides.answers import TileAnswers
from medfm_compress.runtime.slides.journal import PREDICTED, Journal
from medfm_compress.runtime.slides.pyramid_file import TILE_PX, Grey, write_pyramid
from medfm_compress.runtime.slides.tiling import Tiling

UNSEEN_LABEL = 255
HEAT_TEXT = "probability of {finding}: 0 no tile was answered here, else (value - 1) / 254"
LABEL_TEXT = "0 background, {labels}, 255 no tile was answered here"


class Stitched:
    """The answers of a slide's tiles, laid on the slide."""

    def __init__(self, tiling: Tiling, tiles: NDArray[np.int64], journal: Journal, answers: TileAnswers) -> None:
        self.tiling, self._journal, self._answers = tiling, journal, answers
        self._number = np.full(tiling.rows * tiling.columns, -1, np.int64)
        self._number[tiles] = np.arange(len(tiles))
        self._weights = answers.weights(tiling.cells)

    def block(self, top: int, left: int, side: int, findings: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Probabilities ``[findings, side, side]`` of the cells from (top, left), and which of them were answered."""
        sums = np.zeros((findings, side, side), np.float32)
        weights = np.zeros((side, side), np.float32)
        (down, across), (step_y, step_x) = self.tiling.cells, self.tiling.step
        for row in _covering(top, side, down, step_y, self.tiling.rows):
            for column in _covering(left, side, across, step_x, self.tiling.columns):
                number = int(self._number[row * self.tiling.columns + column])
                answer = self._journal.read(number) if number >= 0 else None
                if answer is None or answer.status != PREDICTED:
                    continue
                ys, yt = _overlap(row * step_y, down, top, side)
                xs, xt = _overlap(column * step_x, across, left, side)
                part = self._weights[yt, xt]
                sums[:, ys, xs] += self._answers.tile_map(answer, self.tiling.cells)[:, yt, xt] * part
                weights[ys, xs] += part
        seen = weights > 0
        height, width = self.tiling.map_shape
        seen[max(0, height - top) :] = False
        seen[:, max(0, width - left) :] = False
        return np.divide(sums, weights, out=sums, where=weights > 0), seen


def write_heat_map(path: Path, stitched: Stitched, findings: tuple[str, ...], finding: str,
                   um_per_px: tuple[float, float]) -> None:  # fmt: skip
    """The heat map of one finding; ``um_per_px`` is of a cell, (across, down). Raises InputError if unwritable."""
    index = findings.index(finding)

    def tile_of(row: int, column: int) -> Grey:
        values, seen = stitched.block(row * TILE_PX, column * TILE_PX, TILE_PX, len(findings))
        return np.where(seen, 1 + np.rint(254 * np.clip(values[index], 0, 1)), 0).astype(np.uint8)

    text = HEAT_TEXT.format(finding=_ascii(finding))
    write_pyramid(path, stitched.tiling.map_shape, tile_of, mean_of_seen, um_per_px=um_per_px, description=text)


def write_label_map(path: Path, stitched: Stitched, labels: tuple[str, ...], um_per_px: tuple[float, float]
                    ) -> NDArray[np.int64]:  # fmt: skip
    """The label map of a segmentation; cells of each structure, int64 ``[labels]``. Raises as `write_heat_map`."""
    counts = np.zeros(256, np.int64)
    height, width = stitched.tiling.map_shape

    def tile_of(row: int, column: int) -> Grey:
        values, seen = stitched.block(row * TILE_PX, column * TILE_PX, TILE_PX, len(labels))
        tile = label_map_of(values, len(labels)).copy()
        tile[~seen] = UNSEEN_LABEL
        tile[max(0, height - row * TILE_PX) :] = 0
        tile[:, max(0, width - column * TILE_PX) :] = 0
        counts[:] += np.bincount(tile.reshape(-1), minlength=256)
        return tile

    named = ", ".join(f"{number} {_ascii(label)}" for number, label in enumerate(labels, start=1))
    write_pyramid(
        path, stitched.tiling.map_shape, tile_of, upper_left, um_per_px=um_per_px,
        description=LABEL_TEXT.format(labels=named),
    )  # fmt: skip
    return counts[1 : len(labels) + 1]


def mean_of_seen(block: Grey) -> Grey:
    """Half the size; a pixel is the mean of those of its four that were seen, 0 where none was."""
    four = block.reshape(block.shape[0] // 2, 2, -1, 2).swapaxes(1, 2).reshape(block.shape[0] // 2, -1, 4)
    seen = (four > 0).sum(axis=2)
    sums = four.sum(axis=2, dtype=np.uint32)
    means: Grey = ((sums + seen // 2) // np.maximum(seen, 1)).astype(np.uint8)
    return means


def upper_left(block: Grey) -> Grey:
    """Half the size, one of four labels: they have no mean."""
    return np.ascontiguousarray(block[::2, ::2])


def _covering(start: int, side: int, tile: int, step: int, count: int) -> range:
    """Tiles, of ``count`` along one axis, that show any cell from ``start`` on."""
    first = max(0, -(-(start - tile + 1) // step))
    return range(first, min(count, -(-(start + side) // step)))


def _overlap(tile_start: int, tile: int, start: int, side: int) -> tuple[slice, slice]:
    """Where a tile lies in a block, and which part of the tile that is."""
    low, high = max(tile_start, start), min(tile_start + tile, start + side)
    return slice(low - start, high - start), slice(low - tile_start, high - tile_start)


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()
