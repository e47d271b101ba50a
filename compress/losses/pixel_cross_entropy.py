r"""Cross-entropy of every pixel, a mean over the image.

.. math:: L_i = -\frac1N \sum_x \log p_{y_x}(x)

with the background among the classes. Nothing is weighted: the label map of a network is what is most probable, and
weights would move that.
"""

from __future__ import annotations

from torch import Tensor

from medfm_compress.compress.losses.pixels import Drawn, drawn, log_probabilities, mean_over


class PixelCrossEntropy:
    """On label maps."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss ``[b]`` of logits ``[b, structures, h, w]`` and label maps ``[b, h, w]``."""
        return pixel_cross_entropy(log_probabilities(logits), drawn(targets, logits.shape[1]))


def pixel_cross_entropy(log_p: Tensor, truth: Drawn) -> Tensor:
    """The formula above ``[b]`` of log-probabilities ``[b, 1 + structures, h, w]``."""
    return mean_over(-log_p.gather(1, truth.classes[:, None]).squeeze(1), truth.judged)
