"""What a student learns on: labelled and unlabelled training cases, and what each case's label and teacher weigh."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from medfm_compress.compress.training.dataset import NO_LABEL, UNLABELLED, labelled_cases
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.written_numbers import number_of


class Weighing(NamedTuple):
    """How much a case's label and its teacher count.

    Attributes:
        teacher: w in [0, 1] of a labelled case; its label has 1 − w. Without a label the teacher has 1.
        label_column: column of the study that multiplies a case's label weight; empty for none.
        teacher_column: likewise its teacher weight.
    """

    teacher: float
    label_column: str = ""
    teacher_column: str = ""


class TrainingCases(NamedTuple):
    """Training cases in the order in which everything about them is kept: that of the studies' tables.

    Which of them have a label does not change the order, so that a teacher's cached answers serve every labelling.

    Attributes:
        groups: studies with their cases; an image set is the concatenation.
        targets: int64 ``[n, 1]`` or ``[n, labels]``; ``NO_LABEL`` throughout the rows of unlabelled cases.
        label_weight: float32 ``[n]``, 0 where there is no label.
        teacher_weight: float32 ``[n]``.
    """

    groups: tuple[tuple[Study, tuple[Case, ...]], ...]
    targets: Tensor
    label_weight: Tensor
    teacher_weight: Tensor

    @property
    def has_label(self) -> Tensor:
        """Bool ``[n]``."""
        return self.targets[:, 0] != NO_LABEL

    @property
    def labelled(self) -> int:
        """How many cases have a label."""
        return int(self.has_label.sum())

    @property
    def unlabelled(self) -> int:
        """How many have none."""
        return len(self.targets) - self.labelled


def gather_training_cases(
    study: Study, weighing: Weighing, *, unlabelled: bool, more: tuple[Study, ...] = ()
) -> TrainingCases:
    """The labelled training cases of ``study``, if there are any, and unlabelled ones.

    Args:
        study: gives the labels.
        weighing: of labels against the teacher.
        unlabelled: add the study's own cases of split ``unlabelled``, and training cases without label.
        more: studies whose train and unlabelled cases are added without their labels.

    Raises:
        StudyError: no image to learn from, training labels that are all the same, a column that is missing, or a weight
            that is not a number at least 0.
    """
    if any(_is_labelled(case) for case in study.cases):
        labelled_cases(study, "train")  # refuses labels that are all the same
    own = tuple(case for case in study.cases if _is_labelled(case) or (unlabelled and _is_bare(case)))
    groups = [(study, own), *((other, _all_training(other)) for other in more)]
    kept = tuple((owner, cases) for owner, cases in groups if cases)
    cases = tuple(case for _, cases in kept for case in cases)
    if not cases:
        raise StudyError(f"{study.root} has no image in split 'train' or '{UNLABELLED}' to learn from")
    targets = torch.full((len(cases), _width(study)), NO_LABEL, dtype=torch.int64)
    has_label = torch.zeros(len(cases), dtype=torch.bool)
    for row, case in enumerate(own):
        if case.target:
            targets[row], has_label[row] = torch.tensor(case.target), True
    label_weight = torch.where(has_label, 1 - weighing.teacher, 0.0)
    teacher_weight = torch.where(has_label, weighing.teacher, 1.0)
    return TrainingCases(
        groups=kept,
        targets=targets,
        label_weight=label_weight * _column(study, cases, weighing.label_column),
        teacher_weight=teacher_weight * _column(study, cases, weighing.teacher_column),
    )


def _width(study: Study) -> int:
    return len(study.labels) if study.independent else 1


def _is_labelled(case: Case) -> bool:
    return bool(case.target) and case.split == "train"


def _is_bare(case: Case) -> bool:
    return not case.target and case.split in (UNLABELLED, "train")


def _all_training(study: Study) -> tuple[Case, ...]:
    return tuple(case for case in study.cases if case.split in (UNLABELLED, "train"))


def _column(study: Study, cases: tuple[Case, ...], column: str) -> Tensor:
    """Weights of one column of the table ``[n]`` float32; 1 for cases that leave it empty."""
    if not column:
        return torch.ones(len(cases))
    if column not in study.subgroup_names():
        known = ", ".join(study.subgroup_names()) or "none"
        raise StudyError(f"{study.root} has no column {column!r} to weigh cases by; its columns: {known}")
    return torch.tensor([_weight(case, column) for case in cases], dtype=torch.float32)


def _weight(case: Case, column: str) -> float:
    text = case.subgroups.get(column, "")
    try:
        value = number_of(text or "1")
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise StudyError(f"column {column!r} of {case.image!r} is {text!r}; a weight is a number, at least 0")
    return value
