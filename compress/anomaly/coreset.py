r"""Few rows that cover many, by greedy k-centre.

Gonzalez 1985; as a coreset Sener & Savarese 2018; of an image's places Roth et al. 2022.

.. math:: j_1 = \arg\min_i \|x_i - \bar x\|, \qquad j_{t+1} = \arg\max_i \min_{u \le t} \|x_i - x_{j_u}\|

Every row lies within r of a chosen one, r the distance of the row that would be chosen next, and no choice of as many
rows has a radius below r / 2. Squared distances by :math:`\|a\|^2 + \|b\|^2 - 2 a^\top b` of centred rows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MOST_CANDIDATES = 100_000
"""Rows that are looked at; of more, so many are drawn."""


class Coreset(NamedTuple):
    """Numbers of the chosen rows ``[count]`` in the order of their choice, and the radius within which all lie."""

    index: Tensor
    radius: float


def greedy_coreset(rows: Tensor, count: int) -> Coreset:
    """``count`` of ``rows`` ``[n, width]`` float32; all of them, in their order, where there are no more."""
    if len(rows) <= count:
        return Coreset(torch.arange(len(rows)), 0.0)
    centred = rows - rows.mean(0)
    squares = centred.square().sum(1)
    chosen = torch.empty(count, dtype=torch.int64)
    chosen[0] = squares.argmin()
    nearest = _squared_distances(centred, squares, int(chosen[0]))
    for number in range(1, count):
        chosen[number] = nearest.argmax()
        nearest = torch.minimum(nearest, _squared_distances(centred, squares, int(chosen[number])))
    return Coreset(chosen, float(nearest.max().sqrt()))


def _squared_distances(rows: Tensor, squares: Tensor, number: int) -> Tensor:
    """Of every row to row ``number``, ``[n]``; 0 to itself."""
    distances = (squares + squares[number] - 2 * rows @ rows[number]).clamp(min=0)
    distances[number] = 0
    return distances
