"""Pruning of a classifier: labels, cross-entropy, AUROC."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.pruning.importance import Loss
from medfm_compress.compress.training.validation_score import mean_auroc
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task


class ClassificationPruning:
    """See `PruningRules`."""

    score_name = "AUROC"
    training_cases = 256
    validation_cases = 96
    batch = 16
    narrow_step = 16

    def targets(self, study: Study, cases: Sequence[Case], spec: ImageSpec, progress: Progress) -> Tensor:
        """Int64 ``[n, 1]`` or ``[n, labels]``."""
        return torch.from_numpy(study.targets(tuple(cases)))

    def loss(self, task: Task) -> Loss:
        """Mean cross-entropy of a study's targets, binary where findings are independent."""
        if task.independent:
            return lambda logits, targets: functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
        return lambda logits, targets: functional.cross_entropy(logits, targets.flatten())

    def score(self, task: Task) -> Callable[[Tensor, Tensor], float | None]:
        """Mean AUROC over the findings of ``task``; None where a finding has cases of one class only."""

        def score(logits: Tensor, targets: Tensor) -> float | None:
            try:
                return mean_auroc(logits, targets.numpy(), task)
            except InputError:  # one class is absent
                return None

        return score
