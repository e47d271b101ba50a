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

Rows = Callable[[int, int], NDArray[np.float32]]

_UNIT = 2.0**-53
_ROUNDINGS_OF_WEIGHTS = 32
_OUTPUTS = 7  # of one product; the eighth column is the error bound. More share fewer taps, and fewer fill no register
# Of one product, in multiplications: below what OpenBLAS gives to several threads, which belong to the engine, and few
# enough that what is kept meanwhile stays in the cache (a quarter of what it would be at four times as many).
_LARGEST_PRODUCT = 65_536
_LEAST_FACTOR, _LEAST_PIXELS = 2.0, 1 << 19


class _Block(NamedTuple):
    """Outputs ``first`` to ``last``: columns ``left`` to ``right`` of a row times ``weights``, whose last is for e.

    Attributes:
        taps: 1 where a column is a tap of an output, and 0 elsewhere; without the bound.
    """

    first: int
    last: int
    left: int
    right: int
    weights: NDArray[np.float64]
    taps: NDArray[np.float32]


class _Room(NamedTuple):
    """Where rows ``[step, old width]`` and their products ``[step, blocks, outputs + 1]`` are kept meanwhile."""

    rows: NDArray[np.float64]
    products: NDArray[np.float64]


def is_worth_while(height: int, old_width: int, new_width: int) -> bool:
    """Whether `shortened` is faster than Pillow."""
    return old_width >= _LEAST_FACTOR * new_width and height * old_width >= _LEAST_PIXELS


def shortened(rows: Rows, height: int, old_width: int, new_width: int) -> NDArray[np.float32]:
    """What Pillow's bicubic resize to ``(new_width, height)`` gives.

    Args:
        rows: gives rows ``[stop - start, old_width]`` of the image from ``start`` up to ``stop``, none below 0.
        height: number of rows.
        old_width: of the image.
        new_width: at most ``old_width``.

    Returns:
        ``[height, new_width]``.
    """
    blocks = _blocks(old_width, new_width)
    result = np.empty((height, new_width), np.float32)
    widest = max(block.weights.size for block in blocks)
    step = min(height, max(1, _LARGEST_PRODUCT // widest))
    room = _Room(np.empty((step, old_width)), np.empty((step, len(blocks), _OUTPUTS + 1)))
    for start in range(0, height, step):
        given = rows(start, min(start + step, height))
        low, high = _ends(given, blocks, new_width, room)
        uncertain = np.flatnonzero(_differs(given, low, high, blocks).any(axis=1))
        if uncertain.size:
            low[uncertain] = _by_pillow(given[uncertain], new_width)
        result[start : start + step] = low
    return result


def _ends(
    given: NDArray[np.float32], blocks: tuple[_Block, ...], new_width: int, room: _Room
) -> tuple[NDArray[np.float32], ...]:
    """``p - e`` and ``p + e``, rounded; ``[rows, new_width]``."""
    x, products = room.rows[: len(given)], room.products[: len(given)]
    np.copyto(x, given)
    for at, block in enumerate(blocks):
        np.matmul(x[:, block.left : block.right], block.weights, out=products[:, at])
    sums, errors = products[..., :-1], products[..., -1:]
    low, high = (end(sums, errors).astype(np.float32) for end in (np.subtract, np.add))
    return low.reshape(len(x), -1)[:, :new_width], high.reshape(len(x), -1)[:, :new_width]


def _differs(
    given: NDArray[np.float32], low: NDArray[np.float32], high: NDArray[np.float32], blocks: tuple[_Block, ...]
) -> NDArray[np.bool_]:
    """Which values may be the one or the other; those that have only black taps are 0, which ``low`` is made."""
    differs: NDArray[np.bool_] = np.not_equal(low, high)
    if not differs.any():
        return differs
    of_outputs = np.any(differs & (low <= 0) & (high >= 0), axis=0)
    for block in blocks:
        outputs = slice(block.first, block.last)
        if of_outputs[outputs].any():
            is_black = np.equal(given[:, block.left : block.right] @ block.taps, 0)  # a sum of what is not below 0
            low[:, outputs][is_black] = 0
            differs[:, outputs][is_black] = False
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
        inside = np.zeros((right - left, _OUTPUTS + 1))
        for output in range(start, stop):
            begin, end = first[output] - left, last[output] - left
            inside[begin:end, output - start] = weights[: end - begin, output]
        inside[:, -1] = 2 * (len(weights) + _ROUNDINGS_OF_WEIGHTS) * _UNIT * np.abs(weights[:, start:stop]).max()
        columns = np.arange(left, right)[:, None]
        taps = ((columns >= first[start:stop]) & (columns < last[start:stop])).astype(np.float32)
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
