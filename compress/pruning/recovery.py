"""After pruning: distil the original into what is left of it, and pick the cases that Taylor importance reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch

from medfm_compress.compress.distill import distill
from medfm_compress.compress.distillation import Distillation
from medfm_compress.compress.examples import check_labels, load_examples
from medfm_compress.compress.model import Model
from medfm_compress.compress.pruning.prune import Pruned
from medfm_compress.compress.pruning.scores import Batch
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.device import best_device
from medfm_compress.compress.training.job import Progress
from medfm_compress.data.study import Study

TAYLOR_CASES = 256
TAYLOR_BATCH = 16


def training_batches(
    study: Study, model: Model, progress: Progress, cases: int = TAYLOR_CASES, seed: int = 0
) -> Iterator[Batch]:
    """A seeded draw of at most ``cases`` training cases, as `prune` reads them: normalised, not augmented.

    Yields:
        Images float32 ``[n, channels, height, width]`` and targets int64 ``[n, 1]`` or ``[n, labels]``.

    Raises:
        StudyError: labels that are not the model's, or no training cases.
    """
    check_labels(study, model.task, model.name)
    examples = load_examples(study, "train", model.spec, None, progress)
    order = np.random.default_rng(seed).permutation(len(examples.images))[:cases]
    mean = np.array(model.spec.mean, np.float32).reshape(-1, 1, 1)
    std = np.array(model.spec.std, np.float32).reshape(-1, 1, 1)
    for start in range(0, len(order), TAYLOR_BATCH):
        index = order[start : start + TAYLOR_BATCH]
        images = (examples.images[index] - mean) / std
        yield torch.from_numpy(images), torch.from_numpy(examples.targets[index])


def recover(
    study: Study,
    teacher: Model,
    pruned: Pruned,
    config: TrainingConfig,
    out: Path,
    progress: Progress,
    distillation: Distillation | None = None,
) -> Model:
    """Distil ``teacher`` (the original, or its own teacher) into ``pruned``; saves and resumes like `distill`."""
    steps, before = pruned.model.provenance.steps, teacher.provenance.steps
    own = steps[len(before) :] if steps[: len(before)] == before else steps  # distil puts the teacher's steps first
    provenance = msgspec.structs.replace(pruned.model.provenance, steps=own)
    student = dataclasses.replace(pruned.model, provenance=provenance)
    asked = ModuleTeacher(teacher, best_device(config.device))
    return distill((study,), asked, student, config, out, progress, distillation)
