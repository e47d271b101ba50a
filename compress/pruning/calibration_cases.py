"""The cases that pruning reads: a seeded draw, as many of every class as there are, normalised and not augmented."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.pruning.importance import Batch
from medfm_compress.compress.pruning.sensitivity import ValidationSet
from medfm_compress.compress.training.dataset import check_labels, labelled_cases
from medfm_compress.compress.training.validation_score import mean_auroc
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task

TRAINING_CASES = 256
VALIDATION_CASES = 96
_BATCH = 16


def training_batches(study: Study, model: Model, progress: Progress, seed: int = 0) -> list[Batch]:
    """At most `TRAINING_CASES` training cases.

    Returns:
        Images float32 ``[n, channels, height, width]`` and targets int64 ``[n, 1]`` or ``[n, labels]``.

    Raises:
        StudyError: labels that are not the model's, or no training cases of two classes.
    """
    return _batches(study, "train", TRAINING_CASES, model, progress, seed)


def validation_set(study: Study, model: Model, progress: Progress, seed: int = 0) -> ValidationSet:
    """At most `VALIDATION_CASES` validation cases, and how answers to them are compared.

    Raises:
        StudyError: as `training_batches`.
    """
    batches = _batches(study, "val", VALIDATION_CASES, model, progress, seed)
    return ValidationSet(batches, auroc_of(model.task), centred=not model.task.independent)


def auroc_of(task: Task) -> Callable[[Tensor, Tensor], float | None]:
    """Mean AUROC over the findings of ``task``; None where a finding has cases of one class only."""

    def score(logits: Tensor, targets: Tensor) -> float | None:
        try:
            return mean_auroc(logits, targets.numpy(), task)
        except InputError:  # one class is absent
            return None

    return score


def _batches(study: Study, split: str, count: int, model: Model, progress: Progress, seed: int) -> list[Batch]:
    check_labels(study, model.task, model.name)
    cases = draw(labelled_cases(study, split), count, seed)
    images = prepared_images(study, cases, model.spec, None, progress)
    targets = torch.from_numpy(study.targets(cases))
    mean = np.array(model.spec.mean, np.float32).reshape(-1, 1, 1)
    std = np.array(model.spec.std, np.float32).reshape(-1, 1, 1)
    batches = []
    for index in np.array_split(np.arange(len(cases)), -(-len(cases) // _BATCH)):  # no rest of one: it has no variance
        batches.append((torch.from_numpy((images[index] - mean) / std), targets[index]))
    return batches


def draw(cases: Sequence[Case], count: int, seed: int) -> tuple[Case, ...]:
    """At most ``count`` of ``cases``: classes (or sets of findings) take turns, each in a seeded order."""
    dice = np.random.default_rng(seed)
    classes: dict[tuple[int, ...], list[Case]] = defaultdict(list)
    for position in dice.permutation(len(cases)):
        classes[tuple(cases[position].target)].append(cases[position])
    turns = [(place, key, case) for key, members in sorted(classes.items()) for place, case in enumerate(members)]
    chosen = [case for _, _, case in sorted(turns, key=lambda turn: turn[:2])[:count]]
    return tuple(chosen[i] for i in dice.permutation(len(chosen)))
