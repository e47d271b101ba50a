r"""Probabilities of every pixel, background among them; what the losses of segmentation share.

.. math:: \log p_0 = -\log\Big(1 + \sum_j e^{z_j}\Big), \qquad \log p_k = z_k + \log p_0

for the logits :math:`z` of the structures; the background's is 0 and has no map. A truth is a label map: 0 background,
k the k-th structure, 255 a pixel that nobody judged, which counts for nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

UNJUDGED = 255
"""Value of a label map where nobody said what the pixel shows."""


def log_probabilities(logits: Tensor) -> Tensor:
    """``[b, 1 + structures, h, w]``, the background first, of logits ``[b, structures, h, w]``."""
    return functional.log_softmax(with_background(logits), dim=1)


def with_background(logits: Tensor) -> Tensor:
    """The logits with a map of 0 before them."""
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


class Drawn(NamedTuple):
    """A truth, ready to be multiplied.

    Attributes:
        classes: int64 ``[b, h, w]``, 0 where nobody judged.
        judged: float32 ``[b, h, w]``, 0 or 1.
        structures: float32 ``[b, structures, h, w]``, 1 where the structure is.
    """

    classes: Tensor
    judged: Tensor
    structures: Tensor


def drawn(truth: Tensor, structures: int) -> Drawn:
    """Label maps ``[b, h, w]`` of integers."""
    judged = truth != UNJUDGED
    classes = torch.where(judged, truth, 0).long()
    planes = torch.stack([classes == number for number in range(1, structures + 1)], dim=1)
    return Drawn(classes, judged.float(), planes.float())


def mean_over(values: Tensor, judged: Tensor) -> Tensor:
    """Mean ``[b]`` over the judged pixels of ``values`` ``[b, h, w]``; 0 where there are none."""
    count = judged.flatten(1).sum(1)
    return (values * judged).flatten(1).sum(1) / count.clamp(min=1)
