r"""Relational distillation (Park et al. 2019, "Relational knowledge distillation"): distances and angles in a batch.

With embeddings :math:`e`, distances scaled by their mean :math:`\psi_D(i,j) = \|e_i - e_j\| / \mu`, cosines of angles
:math:`\psi_A(i,j,k) = \cos \angle e_i e_j e_k` and Huber's :math:`l_\delta` with :math:`\delta = 1`:

.. math:: L = \lambda_D \, \overline{l_\delta(\psi_D^S, \psi_D^T)}
          + \lambda_A \, \overline{l_\delta(\psi_A^S, \psi_A^T)}
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.losses.base import DistillationBatch
from medfm_compress.runtime.task import Task

FEATURE = "embedding"
DISTANCE, ANGLE = 1.0, 2.0
_EPSILON = 1e-12


class Relations:
    """Distances weighed by ``DISTANCE``, angles by ``ANGLE``, as in the paper's experiments (25 : 50)."""

    student_features: tuple[str, ...] = (FEATURE,)
    teacher_features: tuple[str, ...] = (FEATURE,)

    def applies_to(self, task: Task) -> str:
        """To every task."""
        return ""

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """A relation of the whole batch, the same for each of its cases ``[b]``."""
        student, teacher = batch.student_features[FEATURE], batch.teacher_features[FEATURE]
        distance = functional.huber_loss(distances(student), distances(teacher))
        angle = functional.huber_loss(angles(student), angles(teacher))
        return (DISTANCE * distance + ANGLE * angle).expand(len(student))


def distances(embedding: Tensor) -> Tensor:
    """Euclidean distances ``[b, b]`` of ``[b, d]``, scaled by the mean of those between different cases."""
    squares = embedding.square().sum(1)
    squared = (squares[:, None] + squares[None, :] - 2 * embedding @ embedding.T).clamp(min=_EPSILON)
    others = ~torch.eye(len(embedding), dtype=torch.bool, device=embedding.device)
    distances = squared.sqrt() * others
    return distances / (distances.sum() / others.sum().clamp(min=1)).clamp(min=_EPSILON)


def angles(embedding: Tensor) -> Tensor:
    """Cosines ``[b, b, b]`` of the angles at the first axis' case between the cases of the other two axes."""
    difference = embedding[None, :, :] - embedding[:, None, :]
    direction = functional.normalize(difference, dim=2)
    return direction @ direction.transpose(1, 2)
