r"""Boundary loss beside cross-entropy and Dice: probability costs the more, the farther it lies outside the border.

.. math:: L_i = L^{\text{dice-ce}}_i + \frac1{K N} \sum_k \sum_x \frac{\phi_k(x)}{S} \, p_k(x)

with the signed distance :math:`\phi_k` to the border of structure k, negative inside it, and S the longer side of the
image, both in pixels. A structure without a border gives nothing to the second term. Source: Kervadec et al. 2019,
"Boundary loss for highly unbalanced segmentation"; they raise the term's weight over the epochs, here S bounds it.
The loss of a case may be below 0.
"""

from __future__ import annotations

from torch import Tensor

from medfm_compress.compress.losses.dice_ce import soft_dice_loss
from medfm_compress.compress.losses.distance_map import signed_distance
from medfm_compress.compress.losses.pixel_cross_entropy import pixel_cross_entropy
from medfm_compress.compress.losses.pixels import drawn, log_probabilities, mean_over


class Boundary:
    """On label maps."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss ``[b]`` of logits ``[b, structures, h, w]`` and label maps ``[b, h, w]``."""
        log_p, truth = log_probabilities(logits), drawn(targets, logits.shape[1])
        p = log_p[:, 1:].exp()
        distance = signed_distance(truth.structures.flatten(0, 1).bool()).reshape(p.shape) / max(p.shape[2:])
        return (
            pixel_cross_entropy(log_p, truth)
            + soft_dice_loss(p, truth)
            + mean_over((distance * p).mean(1), truth.judged)
        )
