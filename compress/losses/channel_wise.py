r"""Channel-wise distillation: where in the image each structure is, as a distribution over the pixels.

.. math:: L = \frac{\tau^2}{K} \sum_k KL\big(\phi(z^T_k) \,\|\, \phi(z^S_k)\big), \quad
          \phi(z)(x) = \frac{e^{z(x) / \tau}}{\sum_{x'} e^{z(x') / \tau}}

A softmax over the pixels of each map gives the few that show the structure their weight, however small it is. Source:
Shu et al. 2021, "Channel-wise knowledge distillation for dense prediction".
"""

from __future__ import annotations

from torch import Tensor

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.compress.losses.kl import softened_kl
from medfm_compress.runtime.task import Task


class ChannelWise:
    """On maps of logits."""

    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def applies_to(self, task: Task) -> str:
        """To what answers for every pixel."""
        return "" if task.is_dense else "it answers for the image as a whole, which has no maps"

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Mean over structures of each case ``[b]``."""
        cases, structures = batch.student.shape[:2]
        student, teacher = (logits.flatten(2).flatten(0, 1) for logits in (batch.student, batch.teacher))
        return softened_kl(student, teacher, self._temperature).reshape(cases, structures).mean(1)
