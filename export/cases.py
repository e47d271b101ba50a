"""Network inputs of a study's cases, and what a session answers to them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.case_columns import case_columns
from medfm_compress.data.normal_labels import without_abnormal
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.study import HOW_TO_LABEL, Case, Study, check_normal
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import StudyError, in_one_line
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.network_inputs import NetworkInputs, with_columns
from medfm_compress.runtime.preprocess import normalise
from medfm_compress.runtime.task import Task


def check_labels(study: Study, task: Task) -> None:
    """Labels of study and task must agree in kind, names and order; of an anomaly task, the normal ones too.

    Raises:
        StudyError: they do not.
    """
    check_normal(study, task)
    if not study.labels:
        raise StudyError(f"{in_one_line(study.root)} has no labels; {HOW_TO_LABEL}")
    if (study.kind, study.labels) != (task.kind, task.labels):
        raise StudyError(
            f"the model's labels are {task.kind} {task.labels}, those of {study.root.name} are {study.kind} "
            f"{study.labels}; use the study that the model was made for"
        )


def sample_cases(study: Study, split: str, count: int, seed: int) -> tuple[Case, ...]:
    """At most ``count`` cases of one split, drawn without replacement, in the table's order; of train none abnormal.

    Raises:
        StudyError: the split is empty.
    """
    cases = without_abnormal(study, split) if split == "train" else study.split(split)
    if not cases:
        raise StudyError(f"{study.root.name} has no case in split {split!r}; cut one with 'medfm-compress study split'")
    chosen = np.random.Generator(np.random.PCG64(seed)).permutation(len(cases))[:count]
    return tuple(cases[i] for i in sorted(chosen.tolist()))


def case_inputs(study: Study, cases: Sequence[Case], spec: ImageSpec, columns: Sequence[Column] = ()) -> NetworkInputs:
    """`network_inputs` with the columns beside them; the images alone of a network without.

    Raises:
        StudyError: an image cannot be used, or the study lacks a column or has values that it does not take.
    """
    return with_columns(network_inputs(study, cases, spec), case_columns(study, cases, columns))


def network_inputs(study: Study, cases: Sequence[Case], spec: ImageSpec) -> NDArray[np.float32]:
    """Normalised inputs ``[n, C, H, W]``, float32, by the device's own preprocessing.

    Raises:
        StudyError: an image cannot be used; it is named.
    """
    return normalise(prepared_images(study, cases, spec, None), spec)
