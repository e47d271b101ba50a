r"""Hard distillation through a token of its own (Touvron et al. 2021, "Training data-efficient image transformers").

.. math:: L = CE(\sigma(z^{S}_{dist}), \arg\max_k z^T_k)

for the logits :math:`z^S_{dist}` of the student's distillation token. For independent labels the teacher's decision is
taken label by label, with binary cross-entropy.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.runtime.task import Task


class HardToken:
    """The distillation token learns the teacher's decision."""

    student_features: tuple[str, ...] = ("token",)
    teacher_features: tuple[str, ...] = ()

    def __init__(self, task: Task) -> None:
        self._independent = task.independent

    def applies_to(self, task: Task) -> str:
        """To every task."""
        return ""

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Cross-entropy of each case ``[b]``."""
        token = batch.student_features["token"]
        if self._independent:
            decided = (batch.teacher > 0).float()
            return functional.binary_cross_entropy_with_logits(token, decided, reduction="none").sum(1)
        return functional.cross_entropy(token, batch.teacher.argmax(1), reduction="none")
