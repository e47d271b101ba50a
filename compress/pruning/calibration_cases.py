"""The cases that pruning reads: a seeded draw, as many of every class as there are, normalised and not augmented."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch

from medfm_compress.compress.networks.inputs import with_columns
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.pruning.importance import Batch
from medfm_compress.compress.pruning.kinds import pruning_rules
from medfm_compress.compress.pruning.sensitivity import ValidationSet
from medfm_compress.compress.training.dataset import check_labels, labelled_cases, load_columns
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.progress import Progress


def training_batches(study: Study, model: Model, progress: Progress, seed: int = 0) -> list[Batch]:
    """At most as many training cases as the kind of task reads.

    Returns:
        Images float32 ``[n, channels, height, width]`` with the model's columns, and targets as
        `PruningRules.targets` gives them.

    Raises:
        StudyError: labels that are not the model's, or no training cases of two classes.
    """
    return _batches(study, "train", pruning_rules(model.task).training_cases, model, progress, seed)


def validation_set(study: Study, model: Model, progress: Progress, seed: int = 0) -> ValidationSet:
    """At most as many validation cases as the kind of task reads, and how answers to them are compared.

    Raises:
        StudyError: as `training_batches`.
    """
    task, rules = model.task, pruning_rules(model.task)
    batches = _batches(study, "val", rules.validation_cases, model, progress, seed)
    centred = not task.independent
    return ValidationSet(batches, rules.score(task), centred=centred, score_name=rules.score_name)


def _batches(study: Study, split: str, count: int, model: Model, progress: Progress, seed: int) -> list[Batch]:
    check_labels(study, model.task, model.name)
    cases = draw(labelled_cases(study, split), count, seed)
    images = prepared_images(study, cases, model.spec, None, progress)
    columns = load_columns([(study, cases)], model.columns)
    rules = pruning_rules(model.task)
    targets = rules.targets(study, cases, model.spec, progress)
    mean = np.array(model.spec.mean, np.float32).reshape(-1, 1, 1)
    std = np.array(model.spec.std, np.float32).reshape(-1, 1, 1)
    batches, count = [], -(-len(cases) // rules.batch)
    for index in np.array_split(np.arange(len(cases)), count):  # no rest of one: it has no variance
        beside = {name: rows[torch.from_numpy(index)] for name, rows in columns.items()}
        batches.append((with_columns(torch.from_numpy((images[index] - mean) / std), beside), targets[index]))
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
