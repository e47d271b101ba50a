r"""Cross-entropy plus soft Dice loss.

.. math:: L_i = -\frac1N \sum_x \log p_{y_x}(x) \; + \; 1 - \frac1K \sum_k \frac{2 \sum_x p_k y_k + 1}
          {\sum_x p_k + \sum_x y_k + 1}

over the pixels x of one image, with probabilities :math:`p_k` and truth :math:`y_k` of structure k. Sources: Milletari
et al. 2016, "V-Net"; their sum: Isensee et al. 2021, "nnU-Net". The 1 makes an absent structure that is not drawn a
loss of nothing.
"""

from __future__ import annotations

from torch import Tensor

from medfm_compress.compress.losses.pixel_cross_entropy import pixel_cross_entropy
from medfm_compress.compress.losses.pixels import Drawn, drawn, log_probabilities


class DiceCrossEntropy:
    """On label maps."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss ``[b]`` of logits ``[b, structures, h, w]`` and label maps ``[b, h, w]``."""
        log_p, truth = log_probabilities(logits), drawn(targets, logits.shape[1])
        return pixel_cross_entropy(log_p, truth) + soft_dice_loss(log_p[:, 1:].exp(), truth)


def soft_dice_loss(p: Tensor, truth: Drawn) -> Tensor:
    """1 − the mean soft Dice of probabilities ``[b, structures, h, w]``; ``[b]``, in [0, 1]."""
    judged = truth.judged[:, None]
    both = (p * truth.structures * judged).flatten(2).sum(2)
    either = ((p + truth.structures) * judged).flatten(2).sum(2)
    return 1 - ((2 * both + 1) / (either + 1)).mean(1)
