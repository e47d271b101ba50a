r"""Which cells of an image are hidden: :math:`m = \mathrm{round}(r \cdot n)` of its :math:`n` cells, drawn by chance.

Every cell of every case gets a random number that is a function of seed, epoch and case alone (a counter-based
generator: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"); the cells with the :math:`m` smallest are
hidden. So a mask depends neither on what else is in the batch nor on what ran before, and every case hides the same
number of cells.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfm_compress.compress.networks.masking import check_ratio

FIXED = -1
"""The epoch of masks that never change: those of the validation images."""


class Masks:
    """The masks of a run.

    Attributes:
        grid: cells (down, across).
        hidden: how many of them are hidden, at least one and not all.
    """

    def __init__(self, grid: tuple[int, int], ratio: float, seed: int) -> None:
        self.grid, cells = grid, grid[0] * grid[1]
        self.hidden = min(max(round(check_ratio(ratio) * cells), 1), cells - 1)
        self._seed = seed

    def draw(self, cases: Tensor, epoch: int) -> Tensor:
        """Bool ``[b, down, across]``, True where hidden, of the cases numbered ``[b]`` in an epoch from `FIXED` on."""
        ranks = np.stack([self._numbers(int(case), epoch) for case in cases]).argsort(axis=1, kind="stable")
        mask = np.zeros(ranks.shape, np.bool_)
        np.put_along_axis(mask, ranks[:, : self.hidden], True, axis=1)
        return torch.from_numpy(mask.reshape(-1, *self.grid))

    def _numbers(self, case: int, epoch: int) -> NDArray[np.uint64]:
        generator = np.random.Philox(key=self._seed, counter=(0, case, epoch - FIXED, 0))
        numbers: NDArray[np.uint64] = generator.random_raw(self.grid[0] * self.grid[1])
        return numbers


def enlarge(mask: Tensor, height: int, width: int) -> Tensor:
    """Bool ``[b, 1, height, width]`` of a mask ``[b, down, across]`` whose cells divide both sides."""
    down, across = height // mask.shape[1], width // mask.shape[2]
    return mask.repeat_interleave(down, dim=1).repeat_interleave(across, dim=2).unsqueeze(1)
