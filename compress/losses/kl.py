r"""Distillation with softened probabilities (Hinton et al. 2015, "Distilling the knowledge in a neural network").

.. math:: L = \tau^2 \, KL(\sigma(z^T / \tau) \,\|\, \sigma(z^S / \tau))

for teacher logits :math:`z^T`, student logits :math:`z^S`, temperature :math:`\tau` and softmax :math:`\sigma`. The
factor :math:`\tau^2` keeps the gradient's size independent of the temperature.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.runtime.task import Task


class SoftLabels:
    """Hinton's term on exclusive labels."""

    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def applies_to(self, task: Task) -> str:
        """Not to independent labels, whose probabilities do not sum to 1."""
        return "its labels are independent; use 'sigmoid'" if task.independent else ""

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Divergence of each case ``[b]``."""
        return softened_kl(batch.student, batch.teacher, self._temperature)


def softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """The formula above for logits ``[b, labels]``; ``[b]``."""
    log_s = functional.log_softmax(student / temperature, dim=1)
    log_t = functional.log_softmax(teacher / temperature, dim=1)
    return functional.kl_div(log_s, log_t, reduction="none", log_target=True).sum(1) * temperature**2
