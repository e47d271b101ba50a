r"""Distillation of every pixel: the divergence of softened probabilities, a mean over the image.

.. math:: L = \frac{\tau^2}{N} \sum_x KL\big(\sigma(z^T(x) / \tau) \,\|\, \sigma(z^S(x) / \tau)\big)

with the background's logit 0 among the logits :math:`z`, so that of one structure it is the divergence of two Bernoulli
distributions. Sources: Hinton et al. 2015; of every pixel: Liu et al. 2019, "Structured knowledge distillation for
semantic segmentation".
"""

from __future__ import annotations

from torch import Tensor

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.compress.losses.kl import softened_kl
from medfm_compress.compress.losses.pixels import with_background
from medfm_compress.runtime.task import Task


class PixelKl:
    """On maps of logits."""

    student_features: tuple[str, ...] = ()
    teacher_features: tuple[str, ...] = ()

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def applies_to(self, task: Task) -> str:
        """To what answers for every pixel."""
        return "" if task.is_dense else "it answers for the image as a whole, which has no pixels to compare"

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Mean divergence of each case ``[b]``."""
        return divergence(batch, self._temperature).flatten(1).mean(1)


def divergence(batch: DistillationBatch, temperature: float) -> Tensor:
    """τ² times the divergence of every pixel ``[b, h, w]``."""
    return softened_kl(with_background(batch.student), with_background(batch.teacher), temperature)
