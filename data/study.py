"""`Study` and `Case`: a table of images with splits, labels, patients and subgroups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.written_forms import normal_form
from medfm_compress.runtime.errors import StudyError, in_one_line
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.task import INDEPENDENT_KINDS, Task, TaskKind

Split = Literal["train", "val", "test", "unlabelled"]
HOW_TO_LABEL = "put its images into a folder per class, or give a cases.csv with a column 'label' (docs/studies.md)"


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One image of a study.

    Attributes:
        image: path relative to the study, or a key inside its file; unique in the study.
        split: ``train``, ``val``, ``test`` or any other name (kept, never trained on).
        target: binary and multiclass: ``(index of the label,)``; multilabel: one 0/1 a label; segmentation: likewise,
            whether its mask shows the structure anywhere; anomaly: ``(0,)`` a normal case, ``(1,)`` another; empty if
            unlabelled.
        patient: key that clusters cases, as it is written; empty where the study has none (the case is then its own
            cluster).
        masks: paths relative to the study: one file that holds every structure, or one a structure, in their order
            and empty where a structure has none; empty where nobody drew the case. Of an anomaly study they show where
            the abnormality is.
        subgroups: further columns, e.g. ``{"sex": "F"}``.
        written: of those that stand for a group, such as ages, the value as it is written: ``{"age": "57"}``.
    """

    image: str
    split: str
    target: tuple[int, ...] = ()
    patient: str = ""
    masks: tuple[str, ...] = ()
    subgroups: dict[str, str] = {}
    written: dict[str, str] = {}

    def value(self, column: str) -> str:
        """What one of the further columns says, as it is written; empty where nothing is recorded."""
        return self.written.get(column) or self.subgroups.get(column, "")

    @property
    def patient_key(self) -> str:
        """The patient in the form that is compared, however it is written; empty where no patient is known.

        Whatever groups or counts patients has to use it, or `cluster`.
        """
        return normal_form(self.patient)

    @property
    def cluster(self) -> str:
        """Patient in the form that is compared, or the image itself where no patient is known."""
        return self.patient_key or f"image:{self.image}"


class ImageSource(Protocol):
    """Where a study's pixels come from."""

    def read(self, image: str) -> Pixels:
        """Decode one image at its own bit depth; raises ``ImageRefused``."""
        ...

    def content_sha256(self, image: str) -> str:
        """Hex sha256 of the stored image (file bytes, or array bytes in an ``.npz``)."""
        ...


class Study(msgspec.Struct, frozen=True, kw_only=True):
    """Cases with labels, of a segmentation study with masks; immutable.

    Attributes:
        root: folder or file it was opened from.
        kind: task kind that the label columns imply, or ``segmentation`` or ``anomaly``.
        labels: names, in the order of the network's outputs; of a segmentation study the structures, of an anomaly
            study the one word for what is not normal.
        cases: all of them, in the table's order.
        source: decodes the images.
        remarks: what opening it passed over or took for something else, one sentence each.
        mask_columns: of its table, one for each of a case's masks; of a segmentation study they follow from the labels.
        normal: of an anomaly study, the labels of its table that are normal; a case's own is its subgroup ``label``.
    """

    root: Path
    kind: TaskKind
    labels: tuple[str, ...]
    cases: tuple[Case, ...]
    source: ImageSource
    remarks: tuple[str, ...] = ()
    mask_columns: tuple[str, ...] = ()
    normal: tuple[str, ...] = ()

    def split(self, name: str) -> tuple[Case, ...]:
        """Labelled and unlabelled cases of one split, in the table's order."""
        return tuple(case for case in self.cases if case.split == name)

    def labelled_split(self, name: str) -> tuple[Case, ...]:
        """Its cases that have a label; raises `StudyError` where there are none, with the splits that have some."""
        cases = tuple(case for case in self.split(name) if case.target)
        if not cases:
            found = Counter(case.split for case in self.cases if case.target)
            others = ", ".join(f"{split} ({count})" for split, count in found.items())
            remedy = (
                f"splits with labelled cases: {others}; name one of them, or cut one with 'medfm-compress study split'"
            )
            raise StudyError(
                f"{in_one_line(self.root.name)} has no labelled case in split {name!r}"
                f"{f'; {remedy}' if found else f', nor in another; {HOW_TO_LABEL}'}"
            )
        return cases

    def targets(self, cases: tuple[Case, ...]) -> NDArray[np.int64]:
        """Targets ``[n, 1]`` (binary, multiclass) or ``[n, labels]`` (independent), int64, of labelled cases."""
        return np.array([case.target for case in cases], dtype=np.int64)

    @property
    def task(self) -> Task:
        """What the study asks of a network; nothing is decided yet. Raises `StudyError` where it has no labels."""
        if not self.labels:
            raise StudyError(f"{in_one_line(self.root)} has no labels; {HOW_TO_LABEL}")
        return Task(kind=self.kind, labels=self.labels, normal=self.normal or msgspec.UNSET)

    @property
    def independent(self) -> bool:
        """Whether a case may have several labels, or none; see `Task.independent`."""
        return self.kind in INDEPENDENT_KINDS

    def subgroup_names(self) -> tuple[str, ...]:
        """Subgroup columns in the order of the table."""
        names: Mapping[str, None] = {name: None for case in self.cases for name in case.subgroups}
        return tuple(names)


def check_normal(study: Study, task: Task) -> None:
    """What a study takes for normal must be what an anomaly task was fitted on; of other tasks nothing is checked.

    Raises:
        StudyError: it is not.
    """
    if set(study.normal) != set(task.normal_labels):
        theirs, ours = (", ".join(names) or "nothing" for names in (task.normal_labels, study.normal))
        raise StudyError(
            f"the model takes {theirs} for normal, {study.root.name} was opened with {ours} as normal; open the study "
            "with the labels that the model was fitted on, or fit it on these"
        )
