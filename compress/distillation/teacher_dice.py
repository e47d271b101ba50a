"""How good a teacher of a segmentation is: the mean Dice of its label maps, held against drawing without looking.

    e_i = 2 a_i t_i / (a_i + t_i),    z = mean(e − d) / (sd(e − d) / √N)

d_i the Dice of case i, a_i and t_i the shares of its pixels that the answer and the truth draw: e_i is the Dice of a
drawing of the answer's size that lies anywhere (independent of the truth, a share a t of the pixels is in both). Cases
where the structure is absent say nothing of where it is drawn and are left out. Above the 97.5 % quantile of the normal
distribution, divided among the structures, the maps are worse than chance: most likely inverted or in another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfm_compress.bench.stats.overlap import dice
from medfm_compress.compress.training.segmentation import label_map_of
from medfm_compress.runtime.task import Task

_LEVEL = 0.025
_FEWEST = 5


class TeacherDice(NamedTuple):
    """What a teacher's maps are worth.

    Attributes:
        mean: Dice over cases and structures, an absent structure that is not drawn counting as 1.
        below: structures that are drawn worse than by chance, in words; empty where none is.
    """

    mean: float
    below: tuple[str, ...]

    def __str__(self) -> str:
        return f"Dice {self.mean:.4f}"


def dice_metric(batches: Iterable[tuple[Tensor, NDArray[np.uint8]]], task: Task) -> TeacherDice:
    """The metric of batches of logits ``[b, structures, h, w]`` with label maps ``[b, h, w]``; 255 is left out."""
    structures = range(1, len(task.labels) + 1)
    rows = [_rows(logits, truth, structures) for logits, truth in batches]
    values, chance, present = (np.concatenate([row[part] for row in rows]) for part in range(3))
    quantile = NormalDist().inv_cdf(1 - _LEVEL / len(task.labels))
    below = []
    for column, name in enumerate(task.labels):
        known = present[:, column] > 0
        gap = (chance - values)[known, column]
        if len(gap) < _FEWEST or gap.mean() <= 0:
            continue
        spread = gap.std(ddof=1) / math.sqrt(len(gap))
        if spread == 0 or gap.mean() / spread > quantile:
            below.append(
                f"Dice {values[known, column].mean():.3f} for {name!r} (anywhere: {chance[known, column].mean():.3f})"
            )
    return TeacherDice(float(values.mean()), tuple(below))


def _rows(
    logits: Tensor, truth: NDArray[np.uint8], structures: Iterable[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Dice, that of chance, and whether the structure is there; ``[b, structures]`` each."""
    answer = label_map_of(logits)
    columns = []
    for number in structures:
        drawn, there = answer == number, truth == number
        a, t = drawn.mean((1, 2)), there.mean((1, 2))
        anywhere = 2 * a * t / np.maximum(a + t, 1e-12)
        columns.append((dice(drawn, there), anywhere, t > 0))
    values, chance, present = (np.stack([column[part] for column in columns], axis=1) for part in range(3))
    return values, chance, present


def resized(logits: Tensor, truth: NDArray[np.uint8]) -> Tensor:
    """Maps of logits, bilinear at the size of the truth's."""
    size = truth.shape[1:]
    if logits.shape[2:] == torch.Size(size):
        return logits
    return torch.nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
