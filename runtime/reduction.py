"""Rows of an image made shorter by the antialiased bicubic filter: Pillow's values, bit for bit, by matrix products.

Value j of a row that Pillow (mode ``F``) shortens is

    r_j = float32(s_j),    s_j = Σ_i w_ij x_i  added up in float64 from the first of n taps to the last,
    w_ij = k((i + 1/2 - c_j) / f) / Σ_i k(…),    c_j = (j + 1/2) f,    f = old width / new width,

which takes most of the time of a resize. (The bilinear filter has half as many taps, and Pillow is as fast.) A matrix
product gives p_j, the same sum in another order. Of either the error is at most n u Σ_i |w_ij x_i| to first order in
u = 2⁻⁵³ (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). So for x ≥ 0

    |p_j - s_j|  ≤  e_j = 2 (n + 32) u max|w| Σ_i x_i

where the sum goes over a window that holds all taps, and 32 stands for the roundings in w itself. Where p_j - e_j and
p_j + e_j round to the same float32, that is r_j. The rows that hold another value (about one value in a million) are
given to Pillow. So the result does not depend on the library of matrix products, nor on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Fill = Callable[[NDArray[np.float64], int], None]

_UNIT = 2.0**-53
_ROUNDINGS_OF_WEIGHTS = 32
_OUTPUTS = 7  # of one product; the eighth row is the error bound. More share fewer taps, and fewer fill no register
# Of one product, in multiplications: below what OpenBLAS gives to several threads, which belong to the engine, and as
# few as cost no time, since memory is kept for them meanwhile.
_LARGEST_PRODUCT = 2 * 65_536
_LEAST_FACTOR, _LEAST_PIXELS = 2.0, 1 << 19


class _Block(NamedTuple):
    """Outputs ``first`` to ``last`` of columns ``left`` to ``right``.

    Attributes:
        weights: ``[outputs + 1, columns]``; the last row is for e.
        taps: ``[outputs, columns]``, 1 where a column is a tap of an output, and 0 elsewhere.
    """

    first: int
    last: int
    left: int
    right: int
    weights: NDArray[np.float64]
    taps: NDArray[np.float64]


def is_worth_while(height: int, old_width: int, new_width: int) -> bool:
    """Whether `shortened` is faster than Pillow."""
    return old_width >= _LEAST_FACTOR * new_width and height * old_width >= _LEAST_PIXELS


def shortened(fill: Fill, height: int, old_width: int, new_width: int) -> NDArray[np.float32]:
    """What Pillow's bicubic resize to ``(new_width, height)`` gives, transposed.

    Args:
        fill: writes the rows from the given one on to ``[rows, old_width]``: float32 values, none below 0.
        height: number of rows.
        old_width: of the image.
        new_width: at most ``old_width``.

    Returns:
        ``[new_width, height]``.
    """
    blocks = _blocks(old_width, new_width)
    step = min(height, max(1, _LARGEST_PRODUCT // max(block.weights.size for block in blocks)))
    x, products = np.empty((step, old_width)), np.empty((len(blocks), _OUTPUTS + 1, step))
    result = np.empty((len(blocks), _OUTPUTS, height), np.float32)
    for start in range(0, height, step):
        given = x[: height - start]
        fill(given, start)
        ends = result[..., start : start + step], np.empty((len(blocks), _OUTPUTS, len(given)), np.float32)
        _round_ends(given, blocks, products[..., : len(given)], ends)
        low, high = result.reshape(-1, height)[:new_width, start : start + step], ends[1].reshape(-1, len(given))
        uncertain = np.flatnonzero(_differs(given, low, high[:new_width], blocks).any(axis=0))
        if uncertain.size:
            low[:, uncertain] = _by_pillow(given[uncertain].astype(np.float32), new_width).T
    return result.reshape(-1, height)[:new_width]


def _round_ends(
    x: NDArray[np.float64],
    blocks: tuple[_Block, ...],
    products: NDArray[np.float64],
    ends: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    """``p - e`` and ``p + e`` of rows x, ``[blocks, outputs, rows]`` each: what follows in memory is of one output."""
    for at, block in enumerate(blocks):
        np.matmul(block.weights, x[:, block.left : block.right].T, out=products[at])
    sums, errors = products[:, :-1], products[:, -1:]
    np.subtract(sums, errors, out=ends[0], casting="same_kind")
    np.add(sums, errors, out=ends[1], casting="same_kind")


def _differs(
    given: NDArray[np.float64], low: NDArray[np.float32], high: NDArray[np.float32], blocks: tuple[_Block, ...]
) -> NDArray[np.bool_]:
    """Which values may be the one or the other; those that have only black taps are 0, which ``low`` is made."""
    differs: NDArray[np.bool_] = np.not_equal(low, high)
    if not differs.any():
        return differs
    of_outputs = np.any(differs & (low <= 0) & (high >= 0), axis=1)
    for block in blocks:
        outputs = slice(block.first, block.last)
        if of_outputs[outputs].any():
            is_black = np.equal(block.taps @ given[:, block.left : block.right].T, 0)  # a sum of what is not below 0
            low[outputs][is_black] = 0
            differs[outputs][is_black] = False
    return differs


def _by_pillow(given: NDArray[np.float32], new_width: int) -> NDArray[np.float32]:
    from PIL import Image

    return np.asarray(Image.fromarray(given).resize((new_width, len(given)), Image.Resampling.BICUBIC), np.float32)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -1/2 at ``x >= 0``."""
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = -0.5 * (((x - 5.0) * x + 8.0) * x - 4.0)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=8)
def _blocks(old: int, new: int) -> tuple[_Block, ...]:
    first, last, weights = _weights(old, new)
    blocks = []
    for start in range(0, new, _OUTPUTS):
        stop = min(start + _OUTPUTS, new)
        left, right = int(first[start]), int(last[stop - 1])
        inside = np.zeros((_OUTPUTS + 1, right - left))
        for output in range(start, stop):
            begin, end = first[output] - left, last[output] - left
            inside[output - start, begin:end] = weights[: end - begin, output]
        inside[-1] = 2 * (len(weights) + _ROUNDINGS_OF_WEIGHTS) * _UNIT * np.abs(weights[:, start:stop]).max()
        columns = np.arange(left, right)
        taps = ((columns >= first[start:stop, None]) & (columns < last[start:stop, None])).astype(np.float64)
        blocks.append(_Block(start, stop, left, right, inside, taps))
    return tuple(blocks)


def _weights(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """First tap of each output and the one behind its last; and w from the first tap on, ``[most taps, new]``."""
    factor = old / new
    centre = (np.arange(new) + 0.5) * factor
    first = np.maximum((centre - 2.0 * factor + 0.5).astype(np.intp), 0)
    last = np.minimum((centre + 2.0 * factor + 0.5).astype(np.intp), old)
    taps = first + np.arange((last - first).max())[:, None]
    k = _cubic(np.abs((taps - centre + 0.5) / factor)) * (taps < last)
    return first, last, k / k.sum(axis=0)
