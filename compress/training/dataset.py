"""A study's cases as arrays that the training loop indexes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfm_compress.compress.training.distributed import first_goes_first
from medfm_compress.compress.training.job import Columns, Images
from medfm_compress.data.case_columns import case_columns, columns_digest
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.prepared_masks import prepared_masks
from medfm_compress.data.study import Case, Study, check_normal
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task

LabelMaps = Any
"""``[n, height, width]`` uint8: an array, or whatever an index array indexes."""
NO_LABEL = -1
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Dataset:
    """Training or validation cases.

    Attributes:
        images: ``[n, channels, height, width]`` float32 in [0, 1], before normalisation; may be memory-mapped.
        targets: ``[n, 1]`` or ``[n, labels]`` int64; ``NO_LABEL`` throughout a row without labels.
        label_maps: of a segmentation ``[n, height, width]`` uint8 on the network's grid, else None.
        columns: that the network takes beside the images, ``[n, width]`` each.
    """

    images: Images
    targets: NDArray[np.int64]
    label_maps: LabelMaps | None = None
    columns: Columns = field(default_factory=dict)


class Stacked:
    """Several image arrays one after the other, without copying them.

    Attributes:
        shape: ``(n, channels, height, width)``.
    """

    def __init__(self, parts: Sequence[Images]) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows ``index`` float32 ``[b, channels, height, width]``."""
        out = np.empty((len(index), *self.shape[1:]), np.float32)
        part = np.searchsorted(self._ends, index, side="right")
        for number, images in enumerate(self._parts):
            rows = part == number
            if rows.any():
                out[rows] = images[index[rows] - (self._ends[number] - len(images))]
        return out


def load_dataset(
    study: Study,
    split: str,
    spec: ImageSpec,
    cache: Path | None,
    progress: Progress,
    columns: Sequence[Column] = (),
) -> Dataset:
    """The labelled cases of one split, prepared once and cached, with the values of ``columns``.

    Raises:
        StudyError: the split has no labelled case, or fewer than two classes, or values that a column does not take.
    """
    cases = labelled_cases(study, split)
    values = load_columns([(study, cases)], columns)
    with first_goes_first():
        images = prepared_images(study, cases, spec, cache, progress)
        maps = prepared_masks(study, cases, spec, cache, progress) if task_of(study).is_dense else None
        return Dataset(images, study.targets(cases), maps, values)


def labelled_cases(study: Study, split: str) -> tuple[Case, ...]:
    """The labelled cases of one split.

    Raises:
        StudyError: the split has none, or fewer than two classes.
    """
    cases = study.labelled_split(split)
    if not study.independent and len({case.target for case in cases}) < 2:
        only = study.labels[cases[0].target[0]]
        raise StudyError(f"every case in split {split!r} is {only!r}; two classes are needed to train or to validate")
    return cases


def load_images(
    groups: Sequence[tuple[Study, tuple[Case, ...]]], spec: ImageSpec, cache: Path | None, progress: Progress
) -> Images:
    """The images of cases of several studies, in this order, prepared once and cached."""
    with first_goes_first():
        parts = [prepared_images(study, cases, spec, cache, progress) for study, cases in groups if cases]
    return parts[0] if len(parts) == 1 else Stacked(parts)


def load_columns(groups: Sequence[tuple[Study, tuple[Case, ...]]], columns: Sequence[Column]) -> dict[str, Tensor]:
    """The values of ``columns`` of cases of several studies, in this order: name → float32 ``[n, width]``.

    Raises:
        StudyError: a study without such a column, or values that it does not take.
    """
    parts = [case_columns(study, cases, columns) for study, cases in groups if cases] if columns else []
    return {column.name: torch.from_numpy(np.concatenate([part[column.name] for part in parts])) for column in columns}


def columns_identity(groups: Sequence[tuple[Study, tuple[Case, ...]]], columns: Sequence[Column]) -> dict[str, object]:
    """What of ``columns`` and of their values decides what is learned, for a fingerprint; nothing without columns."""
    if not columns:
        return {}
    return {"columns": columns, "values": [columns_digest(study, cases, columns) for study, cases in groups]}


def task_of(study: Study) -> Task:
    """The task that a study's label columns imply."""
    return study.task


def check_labels(study: Study, task: Task, name: str) -> None:
    """A model fits a study only where the labels agree, in order.

    Raises:
        StudyError: they differ.
    """
    check_normal(study, task)
    if (study.kind, study.labels) != (task.kind, task.labels):
        raise StudyError(
            f"{name} knows {task.kind} {task.labels}, but {study.root} has {study.kind} {study.labels}; use one label "
            "set, or say with --map which of a teacher's labels means which of the study's"
        )


def pixels_of(spec: ImageSpec) -> ImageSpec:
    """What of a spec decides the pixels that a network learns from: not which files a device lets in or flags."""
    return msgspec.structs.replace(spec, dicom=spec.dicom.for_pixels(), colour_rule=msgspec.UNSET)
