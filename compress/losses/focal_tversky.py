r"""Focal Tversky loss: a lesion that is missed costs more than one that is drawn too large.

.. math:: L_i = \frac1K \sum_k (1 - T_k)^{1/\gamma}, \quad
          T_k = \frac{\sum_x p_k y_k + 1}{\sum_x p_k y_k + \alpha \sum_x (1 - p_k) y_k + \beta \sum_x p_k (1 - y_k) + 1}

with :math:`\alpha = 0.7`, :math:`\beta = 0.3`, :math:`\gamma = 4/3`. Source: Abraham & Khan 2019, "A novel focal
Tversky loss function with improved attention U-Net for lesion segmentation".
"""

from __future__ import annotations

from torch import Tensor

from medfm_compress.compress.losses.pixels import drawn, log_probabilities

ALPHA, BETA, GAMMA = 0.7, 0.3, 4 / 3
_LEAST = 1e-6  # below, the gradient of a root has no bound


class FocalTversky:
    """On label maps."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss ``[b]`` of logits ``[b, structures, h, w]`` and label maps ``[b, h, w]``."""
        truth = drawn(targets, logits.shape[1])
        p, y, judged = log_probabilities(logits)[:, 1:].exp(), truth.structures, truth.judged[:, None]
        both, missed, extra = ((part * judged).flatten(2).sum(2) for part in (p * y, (1 - p) * y, p * (1 - y)))
        index = (both + 1) / (both + ALPHA * missed + BETA * extra + 1)
        return (1 - index).clamp(min=_LEAST).pow(1 / GAMMA).mean(1)
