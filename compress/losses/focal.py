r"""Focal loss (Lin et al. 2017, "Focal loss for dense object detection"): easy cases count less.

.. math:: L_i = w_{y_i} \, (1 - p_{y_i})^\gamma \, (-\log p_{y_i}), \quad \gamma = 2

with the probability :math:`p_{y}` of the true class; label by label, and their mean, for independent labels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medfm_compress.runtime.task import Task

GAMMA = 2.0


class Focal:
    """Weighted by ``weights`` ``[labels]``."""

    def __init__(self, weights: Tensor, task: Task) -> None:
        self._weights, self._independent = weights, task.independent

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss ``[b]`` of logits ``[b, labels]`` and targets ``[b, 1]`` or ``[b, labels]``."""
        weights = self._weights.to(logits.device)
        if self._independent:
            signed = torch.where(targets.bool(), logits, -logits)
            scale = torch.where(targets.bool(), weights, torch.ones_like(weights))
            log_p = functional.logsigmoid(signed)
            return (scale * _modulated(log_p)).mean(1)
        log_p = functional.log_softmax(logits, dim=1).gather(1, targets).squeeze(1)
        return weights[targets.squeeze(1)] * _modulated(log_p)


def _modulated(log_p: Tensor) -> Tensor:
    return -((1 - log_p.exp()) ** GAMMA) * log_p
