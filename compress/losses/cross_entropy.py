r"""The label term: cross-entropy, or binary cross-entropy a label, weighted by class.

.. math:: L_i = -w_{y_i} \log \sigma(z_i)_{y_i}
          \qquad\text{or}\qquad
          L_i = -\frac1K \sum_k \left( v_k y_{ik} \log s(z_{ik}) + (1 - y_{ik}) \log (1 - s(z_{ik})) \right)

with softmax :math:`\sigma`, logistic function :math:`s`, class weights :math:`w` with mean 1 over cases, and the
weights :math:`v` of a label's positives.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from medfm_compress.runtime.task import Task


class CrossEntropy:
    """Weighted by ``weights`` ``[labels]``."""

    def __init__(self, weights: Tensor, task: Task) -> None:
        self._weights, self._independent = weights, task.independent

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss ``[b]`` of logits ``[b, labels]`` and targets ``[b, 1]`` or ``[b, labels]``."""
        weights = self._weights.to(logits.device)
        if self._independent:
            losses = functional.binary_cross_entropy_with_logits(
                logits, targets.float(), pos_weight=weights, reduction="none"
            )
            return losses.mean(1)
        return functional.cross_entropy(logits, targets.flatten(), weight=weights, reduction="none")
