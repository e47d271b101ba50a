"""A study's cases as arrays that the training loop indexes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from medfm_compress.compress.old_training import Examples, Progress
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import DicomRules, ImageSpec
from medfm_compress.runtime.task import Task


def load_examples(study: Study, split: str, spec: ImageSpec, cache: Path | None, progress: Progress) -> Examples:
    """The labelled cases of one split, prepared once and cached.

    Raises:
        StudyError: the split has no labelled case, or fewer than two classes.
    """
    cases = tuple(case for case in study.split(split) if case.target)
    if not cases:
        raise StudyError(f"{study.root} has no labelled case in split {split!r}; cut one with 'study split'")
    targets = study.targets(cases)
    if study.kind != "multilabel" and len(set(targets.flatten().tolist())) < 2:
        only = study.labels[int(targets[0, 0])]
        raise StudyError(f"every case in split {split!r} is {only!r}; two classes are needed to train or to validate")
    return Examples(prepared_images(study, cases, spec, cache, progress), targets)


def task_of(study: Study) -> Task:
    """The task that a study's label columns imply."""
    return Task(kind=study.kind, labels=study.labels)


def check_labels(study: Study, task: Task, name: str) -> None:
    """A model fits a study only where the labels agree, in order.

    Raises:
        StudyError: they differ.
    """
    if (study.kind, study.labels) != (task.kind, task.labels):
        raise StudyError(
            f"{name} knows {task.kind} {task.labels}, but {study.root} has {study.kind} {study.labels}; "
            "use one label set"
        )


def pixels_of(spec: ImageSpec) -> ImageSpec:
    """What of a spec decides the pixels that a network learns from: not which DICOM files a device lets in."""
    rules = spec.dicom
    window = DicomRules(window=rules.window, window_center=rules.window_center, window_width=rules.window_width)
    return msgspec.structs.replace(spec, dicom=window)
