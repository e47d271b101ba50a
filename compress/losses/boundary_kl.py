r"""Distillation of every pixel in which those near the teacher's borders count more.

.. math:: L = \tau^2 \, \frac{\sum_x w(x) \, KL_x}{\sum_x w(x)}, \quad
          w(x) = \begin{cases} 1 + 4 & \text{less than } r \text{ from a border of the teacher's label map} \\
                               1 & \text{elsewhere} \end{cases}

with the divergence :math:`KL_x` of `pixel_kl` and r = 1/64 of the shorter side. Most pixels of a lesion's image are far
from every border, and there a small student agrees with its teacher early; what is lost lies at the border (the weight
map is that of Ronneberger et al. 2015, "U-Net", with a band in place of a bell).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.compress.losses.pixel_kl import divergence
from medfm_compress.compress.losses.pixels import with_background
from medfm_compress.runtime.task import Task

EXTRA, BAND = 4.0, 64


class BoundaryKl:
    """On maps of logits."""

    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def applies_to(self, task: Task) -> str:
        """To what answers for every pixel."""
        return "" if task.is_dense else "it answers for the image as a whole, which has no borders"

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Weighted mean divergence of each case ``[b]``."""
        weights = (1 + EXTRA * near_borders(batch.teacher)).flatten(1)
        return (divergence(batch, self._temperature).flatten(1) * weights).sum(1) / weights.sum(1)


def near_borders(logits: Tensor) -> Tensor:
    """Float32 ``[b, h, w]``, 1 within r of a border of the label map of logits ``[b, structures, h, w]``."""
    label_map = with_background(logits).argmax(1, keepdim=True).float()
    reach = max(1, min(label_map.shape[2:]) // BAND)
    most = functional.max_pool2d(label_map, 2 * reach + 1, stride=1, padding=reach)
    least = -functional.max_pool2d(-label_map, 2 * reach + 1, stride=1, padding=reach)
    return torch.ne(most, least).squeeze(1).float()
