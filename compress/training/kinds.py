"""Kind of task → what differs in training: targets, losses, score; `finetune` and `distill` ask here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from medfm_compress.compress.training.classification import ClassificationTraining
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import Dataset
from medfm_compress.compress.training.segmentation import SegmentationTraining
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task, TaskKind, by_kind

Groups = Sequence[tuple[Study, tuple[Case, ...]]]


class TrainingRules(Protocol):
    """What differs between kinds of task.

    Attributes:
        score: what validation is scored by, e.g. ``AUROC``.
        moving: names of what a batch carries that moves with its images.
    """

    score: str
    moving: tuple[str, ...]

    def distillation_losses(self, task: Task) -> dict[str, float]:
        """Terms of a distillation with their weights, where nobody says others."""
        ...

    def scorer(self, val: Dataset, spec: ImageSpec, task: Task, config: TrainingConfig) -> Callable[[nn.Module], float]:
        """Scores a network on ``val``, higher is better, on the device and in the precision of its training."""
        ...

    def targets(
        self, groups: Groups, labelled: Tensor, task: Task, spec: ImageSpec, cache: Path | None, progress: Progress
    ) -> Callable[[Tensor], Tensor]:
        """What a label term is given for cases ``[b]``, numbered through the groups.

        Args:
            groups: studies with their cases.
            labelled: bool ``[n]``; what the others are given has no meaning, or says that nobody judged.
            task: of the study that gives the labels.
            spec: of the network.
            cache: folder of prepared images and masks.
            progress: is told.
        """
        ...


_RULES: Mapping[TaskKind, TrainingRules] = by_kind(ClassificationTraining(), SegmentationTraining())


def training_rules(task: Task) -> TrainingRules:
    """The rules of a task's kind."""
    return _RULES[task.kind]
