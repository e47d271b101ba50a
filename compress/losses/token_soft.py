r"""Soft distillation through a token of its own (Touvron et al. 2021): Hinton's term on the token's logits.

.. math:: L = \tau^2 \, KL(\sigma(z^T / \tau) \,\|\, \sigma(z^S_{dist} / \tau))
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.compress.losses.kl import SoftLabels
from medfm_compress.compress.losses.sigmoid import SigmoidLabels
from medfm_compress.runtime.task import Task


class SoftToken:
    """The distillation token learns the teacher's softened probabilities."""

    student_features: tuple[str, ...] = ("token",)
    teacher_features: tuple[str, ...] = ()

    def __init__(self, temperature: float, task: Task) -> None:
        self._term = SigmoidLabels(temperature) if task.independent else SoftLabels(temperature)

    def applies_to(self, task: Task) -> str:
        """To every task."""
        return ""

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Divergence of each case ``[b]``."""
        return self._term(replace(batch, student=batch.student_features["token"]))
