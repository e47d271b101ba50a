r"""Attention transfer (Zagoruyko & Komodakis 2017, "Paying more attention to attention"): match where they look.

.. math:: L = \| Q^S - Q^T \|_2^2, \quad Q = \mathrm{vec}(A) / \|\mathrm{vec}(A)\|_2,
          \quad A_{hw} = \frac1C \sum_c F_{chw}^2

The larger map is averaged to the smaller's size before both are normalised again.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.compress.losses.feature import same_size
from medfm_compress.runtime.task import Task

FEATURE = "attention"


class AttentionTransfer:
    """Squared distance of normalised attention maps."""

    student_features: tuple[str, ...] = (FEATURE,)
    teacher_features: tuple[str, ...] = (FEATURE,)

    def applies_to(self, task: Task) -> str:
        """To every task."""
        return ""

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Squared distance of each case ``[b]``, at most 4."""
        maps = (batch.student_features[FEATURE], batch.teacher_features[FEATURE])
        student, teacher = same_size(*(attention.unsqueeze(1) for attention in maps))
        distance = functional.normalize(student.flatten(1), dim=1) - functional.normalize(teacher.flatten(1), dim=1)
        return distance.square().sum(1)
