"""A sliding window: tiles of the network's size move over the image, and their logits are blended.

    starts   0, s, 2s, … with s = ⌊T (1 − overlap)⌋, the last one shifted so that its tile ends with the image
    w(y, x)  = max(g(y) g(x), 0.001),   g(i) = exp(−(i − (T − 1) / 2)² / (2 (T / 8)²));   constant blending: w = 1
    z        = Σ w z_tile / Σ w

as ``monai.inferers.sliding_window_inference`` does. A row of tiles is held at a time: what is above the next row of
tiles is finished and given out, so that memory grows with the width of the image and not with its height.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import Blending, ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.preprocess import normalise, prepare_tile, tile_grid
from medfm_compress.runtime.threads import map_in_threads

SIGMA_OF_TILE = 0.125
LEAST_WEIGHT = 1e-3

Run = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Network input ``[1, C, height_px, width_px]`` → logits ``[1, structures, height_px, width_px]``."""


class Band(NamedTuple):
    """Finished rows: the first one's number in the image, and logits float32 ``[structures, rows, width]``."""

    top: int
    logits: NDArray[np.float32]


def tile_starts(length: int, tile: int, overlap: float) -> tuple[int, ...]:
    """Where tiles begin along a side of ``length`` >= ``tile`` px."""
    if length <= tile:
        return (0,)
    step = max(1, int(tile * (1 - overlap)))
    return tuple(min(start, length - tile) for start in range(0, length - tile + step, step))


def blending_weights(height: int, width: int, blending: Blending) -> NDArray[np.float32]:
    """Weights of a tile's pixels, float32 ``[height, width]``."""
    if blending == "constant":
        return np.ones((height, width), np.float32)
    rows, columns = (_gaussian(side) for side in (height, width))
    weights = np.multiply.outer(rows, columns)
    return np.maximum(weights, max(float(weights.min()), LEAST_WEIGHT)).astype(np.float32)


def sliding_logits(run: Run, pixels: Pixels, spec: ImageSpec, workers: int = 1) -> Iterator[Band]:
    """Blended logits of an image, band by band from the top; equal for any number of workers.

    Args:
        run: the network; called from ``workers`` threads.
        pixels: at the resolution of the tiles, see `at_resolution`.
        spec: with tiles.
        workers: tiles that are computed at a time.

    Raises what ``run`` raises, and InputError where ``spec`` has no tiles.
    """
    if not spec.tiles:
        raise InputError("the image spec has no tiles; the image is resized to the network's input instead")
    height, width = pixels.shape[:2]
    grid = tile_grid(height, width, spec)
    full_h, full_w = max(height, spec.height_px), max(width, spec.width_px)
    tops = tile_starts(full_h, spec.height_px, spec.tiles.overlap)
    lefts = tile_starts(full_w, spec.width_px, spec.tiles.overlap)

    def answer(corner: tuple[int, int]) -> NDArray[Any]:
        tile = prepare_tile(pixels, spec, corner[0] - grid.top, corner[1] - grid.left)
        logits: NDArray[Any] = run(normalise(tile[None], spec))[0]
        return logits

    answers = map_in_threads(answer, itertools.product(tops, lefts), workers)
    weights = blending_weights(spec.height_px, spec.width_px, spec.tiles.blending)
    bands = _blend(answers, tops, lefts, full_w, weights)
    for top, logits in bands:
        first, last = max(top, grid.top), min(top + logits.shape[1], grid.top + height)
        if last > first:
            shown = logits[:, first - top : last - top, grid.left : grid.left + width]
            yield Band(first - grid.top, shown)


def _blend(
    answers: Iterator[NDArray[Any]],
    tops: tuple[int, ...],
    lefts: tuple[int, ...],
    width: int,
    weights: NDArray[np.float32],
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Rows of the grid that no further tile reaches, with their first row's number."""
    tile_h, tile_w = weights.shape
    first = next(answers)
    answers = itertools.chain([first], answers)
    sums = np.zeros((len(first), tile_h, width), np.float32)
    total = np.zeros((tile_h, width), np.float32)
    for number, top in enumerate(tops):
        for left in lefts:
            sums[:, :, left : left + tile_w] += next(answers) * weights
            total[:, left : left + tile_w] += weights
        done = (tops[number + 1] if number + 1 < len(tops) else top + tile_h) - top
        yield top, sums[:, :done] / total[:done]
        _shift(sums, done)
        _shift(total, done)


def _shift(rows: NDArray[np.float32], count: int) -> None:
    """Move rows (the axis before the last) up by ``count``, in place; what comes in from below is 0."""
    kept = rows.shape[-2] - count
    rows[..., :kept, :] = rows[..., count:, :].copy()
    rows[..., kept:, :] = 0


def _gaussian(side: int) -> NDArray[np.float32]:
    x = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    weights: NDArray[np.float32] = np.exp(x**2 / np.float32(-2 * (SIGMA_OF_TILE * side) ** 2))
    return weights
