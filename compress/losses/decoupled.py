r"""Decoupled knowledge distillation (Zhao et al. 2022, "Decoupled knowledge distillation", equation 7).

Hinton's divergence is split at the teacher's class t: a binary part on :math:`(p_t, 1 - p_t)` and a part on the
distribution :math:`\hat p` among the other classes, each with its own weight:

.. math:: L = \tau^2 (\alpha \, KL(b^T \| b^S) + \beta \, KL(\hat p^T \| \hat p^S))

The paper takes t from the label; the teacher's own choice is taken here, so that unlabelled cases can be learned from.
Between two labels there is no distribution among the others, and the term is :math:`\alpha` times Hinton's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.runtime.task import Task

ALPHA, BETA = 1.0, 2.0
_NEVER = -1e4  # a logit that leaves no probability


class Decoupled:
    """The target's part weighed by ``ALPHA``, the others' by ``BETA``."""

    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def applies_to(self, task: Task) -> str:
        """Not to independent labels."""
        return "its labels are independent; use 'sigmoid'" if task.independent else ""

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Weighted divergences of each case ``[b]``."""
        s, t = batch.student / self._temperature, batch.teacher / self._temperature
        chosen = functional.one_hot(t.argmax(1), t.shape[1]).bool()
        target = _divergence(_binary(s, chosen), _binary(t, chosen))
        others = _divergence(_others(s, chosen), _others(t, chosen))
        return (ALPHA * target + BETA * others) * self._temperature**2


def _binary(logits: Tensor, chosen: Tensor) -> Tensor:
    """Log-probabilities ``[b, 2]`` of the chosen class and of all others together."""
    log_p = functional.log_softmax(logits, dim=1)
    rest = torch.logsumexp(log_p.masked_fill(chosen, _NEVER), dim=1)
    return torch.stack((log_p[chosen], rest), dim=1)


def _others(logits: Tensor, chosen: Tensor) -> Tensor:
    """Log-probabilities ``[b, labels]`` among the classes that were not chosen."""
    return functional.log_softmax(logits.masked_fill(chosen, _NEVER), dim=1)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
