r"""DIST (Huang et al. 2022, "Knowledge distillation from a stronger teacher"): correlate, rather than match.

With softened probabilities :math:`Y` ``[b, labels]`` and the Pearson correlation :math:`\rho`:

.. math:: L = \beta \, \tau^2 \, \frac1b \sum_i (1 - \rho(Y^S_{i,:}, Y^T_{i,:}))
          + \gamma \, \tau^2 \, \frac1K \sum_k (1 - \rho(Y^S_{:,k}, Y^T_{:,k}))

The first sum relates the labels of a case, the second the batch's cases of a label. Between two labels every case's
correlation is plus or minus 1, which says no more than a decision: the first sum is left out then.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.runtime.task import Task

BETA, GAMMA = 1.0, 1.0
_EPSILON = 1e-8


class Correlation:
    """Between labels of a case, and between cases of a label."""

    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def applies_to(self, task: Task) -> str:
        """Not to independent labels."""
        return "its labels are independent; use 'sigmoid'" if task.independent else ""

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Loss of each case ``[b]``; the second sum is the same for all of them."""
        s, t = ((z / self._temperature).softmax(1) for z in (batch.student, batch.teacher))
        among_cases = (1 - pearson(s.T, t.T)).mean()
        among_labels = 1 - pearson(s, t) if s.shape[1] > 2 else torch.zeros_like(s[:, 0])
        return (BETA * among_labels + GAMMA * among_cases) * self._temperature**2


def pearson(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of the rows of ``[r, n]`` and ``[r, n]``; ``[r]``, 0 for a row without spread."""
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    correlation: Tensor = (x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1) + _EPSILON)
    return correlation
