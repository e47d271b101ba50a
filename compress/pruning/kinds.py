"""Kind of task → what differs in pruning: the truth of a case, its loss, its score, and how many cases are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from torch import Tensor

from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.pruning.classification import ClassificationPruning
from medfm_compress.compress.pruning.importance import Loss
from medfm_compress.compress.pruning.segmentation import SegmentationPruning
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task, TaskKind, by_kind


class PruningRules(Protocol):
    """What differs between kinds of task.

    Attributes:
        score_name: what the score is, in words.
        training_cases: that are read for importance and repair, at most.
        validation_cases: that sensitivity is measured on, at most.
        batch: cases at a time.
        narrow_step: what the widths of groups of fewer than 32 channels become multiples of.
    """

    score_name: str
    training_cases: int
    validation_cases: int
    batch: int
    narrow_step: int

    def targets(self, study: Study, cases: Sequence[Case], spec: ImageSpec, progress: Progress) -> Tensor:
        """What loss and score are given of labelled cases, ``[n, …]``."""
        ...

    def loss(self, task: Task) -> Loss:
        """Mean loss of logits and targets."""
        ...

    def score(self, task: Task) -> Callable[[Tensor, Tensor], float | None]:
        """Accuracy of logits against targets; None where it cannot be told."""
        ...


_RULES: Mapping[TaskKind, PruningRules] = by_kind(ClassificationPruning(), SegmentationPruning())


def pruning_rules(task: Task) -> PruningRules:
    """The rules of a task's kind."""
    return _RULES[task.kind]


def check_prunable(model: Model) -> None:
    """Raises ModelError for a network that is fitted and not trained: what it remembers is of the whole encoder."""
    if model.task.kind == "anomaly":
        raise ModelError(
            f"{model.name} compares embeddings with stored ones, which mean nothing behind a pruned encoder; prune the "
            "model that the encoder is made of, and fit again with 'medfm-compress anomaly fit'"
        )
