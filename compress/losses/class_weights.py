r"""Class weights of the label terms, with mean 1 over the training cases.

Inverse frequency: :math:`w_k \propto 1 / n_k`. Effective number (Cui et al. 2019, "Class-balanced loss based on
effective number of samples"): :math:`w_k \propto (1 - \beta) / (1 - \beta^{n_k})`, between no weighting
(:math:`\beta = 0`) and inverse frequency (:math:`\beta \to 1`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from medfm_compress.runtime.task import Task

BETA = 0.999
_LARGEST = 20.0  # a label that hardly ever occurs must not drown all others


def no_weights(task: Task) -> Tensor:
    """Ones ``[labels]`` float32."""
    return torch.ones(len(task.labels))


def inverse_frequency(targets: Tensor, task: Task) -> Tensor:
    """Weights ``[labels]`` float32.

    Args:
        targets: ``[n, 1]`` or ``[n, labels]`` int64.
        task: gives the kind and the number of labels.

    Returns:
        A weight a class, or for multi-label tasks the weight of a label's positives: negatives over positives.
    """
    if task.independent:
        positives = targets.sum(0).clamp(min=1).float()
        return ((len(targets) - positives).clamp(min=1) / positives).clamp(max=_LARGEST)
    return _mean_one(1 / _counts(targets, task), targets, task)


def effective_number(targets: Tensor, task: Task) -> Tensor:
    """Weights ``[labels]`` float32; arguments and result as of `inverse_frequency`."""
    if task.independent:
        positives = targets.sum(0).clamp(min=1).float()
        negatives = (len(targets) - positives).clamp(min=1)
        return (_effective(negatives) / _effective(positives)).clamp(max=_LARGEST)
    return _mean_one(1 / _effective(_counts(targets, task)), targets, task)


def _effective(counts: Tensor) -> Tensor:
    return ((1 - BETA ** counts.double()) / (1 - BETA)).float()


def _counts(targets: Tensor, task: Task) -> Tensor:
    return torch.bincount(targets.flatten(), minlength=len(task.labels)).clamp(min=1).float()


def _mean_one(weights: Tensor, targets: Tensor, task: Task) -> Tensor:
    counts = _counts(targets, task)
    return weights * len(targets) / (weights * counts).sum()
