"""Training of a classifier: class numbers or rows of 0 and 1 against logits, scored by AUROC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import Dataset
from medfm_compress.compress.training.validation_score import auroc_scorer
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task


class ClassificationTraining:
    """See `TrainingRules`."""

    score = "AUROC"
    moving: tuple[str, ...] = ()

    def distillation_losses(self, task: Task) -> dict[str, float]:
        """``sigmoid`` for independent findings, else ``kl``.

        No other term was better by more than the spread of seeds, for any pair of families that was tried: see
        docs/results/distillation.md.
        """
        return {"sigmoid": 1.0} if task.independent else {"kl": 1.0}

    def scorer(self, val: Dataset, spec: ImageSpec, task: Task, config: TrainingConfig) -> Callable[[nn.Module], float]:
        """The mean AUROC over findings."""
        return auroc_scorer(val, spec, task, config)

    def targets(
        self,
        groups: Sequence[tuple[Study, tuple[Case, ...]]],
        labelled: Tensor,
        task: Task,
        spec: ImageSpec,
        cache: Path | None,
        progress: Progress,
    ) -> Callable[[Tensor], Tensor]:
        """Int64 ``[b, 1]`` or ``[b, labels]``; class 0 for cases without a label."""
        cases = [case for _, cases in groups for case in cases]
        width = len(task.labels) if task.independent else 1
        rows = [case.target if known else (0,) * width for case, known in zip(cases, labelled, strict=True)]
        every = torch.tensor(rows, dtype=torch.int64)
        return lambda index: every[index]
