r"""Feature matching with a learned projection (Romero et al. 2015, "FitNets: hints for thin deep nets").

.. math:: L = \frac{1}{CHW} \, \| W * F^S - \hat F^T \|_2^2

for the last feature maps :math:`F` and a 1×1 convolution :math:`W`, trained with the student, that brings the student's
channels to the teacher's. The larger map is pooled to the smaller's size. :math:`\hat F^T` has mean 0 and variance 1
over each case, so that the term's size does not depend on the teacher.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.runtime.task import Task

FEATURE = "map"


class Hint(nn.Module):
    """Squared distance of projected maps."""

    student_features: tuple[str, ...] = (FEATURE,)
    teacher_features: tuple[str, ...] = (FEATURE,)

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(student_channels, teacher_channels, 1)

    def applies_to(self, task: Task) -> str:
        """To every task."""
        return ""

    def forward(self, batch: DistillationBatch) -> Tensor:
        """Mean squared distance of each case ``[b]``."""
        student, teacher = same_size(batch.student_features[FEATURE], batch.teacher_features[FEATURE])
        target = functional.layer_norm(teacher, teacher.shape[1:])
        distance: Tensor = (self.projection(student) - target).square().flatten(1).mean(1)
        return distance


def same_size(first: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps ``[b, c, h, w]`` averaged to the smaller height and the smaller width of both."""
    height, width = min(first.shape[2], other.shape[2]), min(first.shape[3], other.shape[3])
    return _pooled(first, height, width), _pooled(other, height, width)


def _pooled(maps: Tensor, height: int, width: int) -> Tensor:
    if maps.shape[2:] == torch.Size((height, width)):
        return maps
    return functional.adaptive_avg_pool2d(maps, (height, width))
