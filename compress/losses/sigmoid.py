r"""Distillation label by label, for independent findings: a Bernoulli divergence each.

.. math:: L = \tau^2 \sum_k KL(B(\sigma(z^T_k / \tau)) \,\|\, B(\sigma(z^S_k / \tau)))

with the logistic function :math:`\sigma`; the binary form of Hinton et al. 2015, as used for multi-label distillation
(Yang et al. 2023, "Multi-label knowledge distillation", their baseline of binary relevance).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.runtime.task import Task


class SigmoidLabels:
    """A divergence a label, summed over labels."""

    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def applies_to(self, task: Task) -> str:
        """Not to exclusive labels, where one probability decides the others."""
        return "" if task.independent else "its labels exclude each other; use 'kl'"

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Divergence of each case ``[b]``."""
        s, t = batch.student / self._temperature, batch.teacher / self._temperature
        target = torch.sigmoid(t)
        cross = functional.binary_cross_entropy_with_logits(s, target, reduction="none")
        entropy = functional.binary_cross_entropy_with_logits(t, target, reduction="none")
        return (cross - entropy).sum(1) * self._temperature**2
