r"""Losses of fine-tuning and distillation.

Label term: cross-entropy (binary, multi-class) or binary cross-entropy a label (multi-label), weighted by class.
Distillation term (Hinton et al. 2015, "Distilling the knowledge in a neural network"), for teacher logits :math:`z^T`,
student logits :math:`z^S` and temperature :math:`\tau`:

.. math:: L = (1 - w) \, L_{label} + w \, \tau^2 \, KL(\sigma(z^T / \tau) \,\|\, \sigma(z^S / \tau))

with softmax for exclusive labels and a sum of per-label Bernoulli divergences for multi-label tasks. The factor
:math:`\tau^2` keeps the gradient's size independent of the temperature.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medfm_compress.runtime.task import Task


def class_weights(targets: Tensor, task: Task, *, balanced: bool) -> Tensor:
    """Weights of the label term, float32.

    Args:
        targets: ``[n, 1]`` or ``[n, labels]`` int64.
        task: gives the kind and the number of labels.
        balanced: weight by inverse frequency, with mean 1 over cases.

    Returns:
        ``[labels]``: a weight a class, or for multi-label tasks the weight of a label's positives.
    """
    count = len(task.labels)
    if not balanced:
        return torch.ones(count)
    if task.kind == "multilabel":
        positives = targets.sum(0).clamp(min=1).float()
        return ((len(targets) - positives).clamp(min=1) / positives).clamp(max=20)
    frequency = torch.bincount(targets.flatten(), minlength=count).float()
    return len(targets) / (count * frequency.clamp(min=1))


def label_loss(logits: Tensor, targets: Tensor, weights: Tensor, task: Task) -> Tensor:
    """Mean label term of logits ``[b, labels]`` and targets ``[b, 1]`` or ``[b, labels]``; a scalar."""
    if task.kind == "multilabel":
        return functional.binary_cross_entropy_with_logits(logits, targets.float(), pos_weight=weights)
    return functional.cross_entropy(logits, targets.flatten(), weight=weights)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float, task: Task) -> Tensor:
    """Hinton's term, already multiplied by the squared temperature; a scalar.

    Args:
        student: logits ``[b, labels]``.
        teacher: logits ``[b, labels]``.
        temperature: above 0.
        task: softmax or sigmoid.
    """
    s, t = student / temperature, teacher / temperature
    if task.kind == "multilabel":
        target = torch.sigmoid(t)
        cross = functional.binary_cross_entropy_with_logits(s, target, reduction="none")
        entropy = functional.binary_cross_entropy_with_logits(t, target, reduction="none")
        return (cross - entropy).sum(1).mean() * temperature**2
    log_s, log_t = functional.log_softmax(s, dim=1), functional.log_softmax(t, dim=1)
    return functional.kl_div(log_s, log_t, reduction="batchmean", log_target=True) * temperature**2
