"""Classification: one row of logits an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task


class ClassificationRules:
    """See `TaskRules`."""

    def logits_shape(self, task: Task, spec: ImageSpec) -> tuple[int, ...]:
        """``(1, labels)``, whatever the input's size."""
        return (1, len(task.labels))

    def check_spec(self, task: Task, spec: ImageSpec) -> None:
        """Raises InputError where the input is a tile: the answer is of the image as a whole."""
        if spec.tiles:
            raise InputError(f"the image spec has tiles, which are for segmentations; the task is {task.kind}")
        if spec.dicom.frame_aggregation == "max" and task.kind == "multiclass":
            raise InputError(
                "frame_aggregation is 'max', and the greatest probabilities of classes that exclude each other add up "
                "to more than 1; use mean or each"
            )

    def comparable(self, logits: NDArray[Any], task: Task) -> NDArray[np.float64]:
        """The logits; of labels that exclude each other less each case's mean, which a softmax ignores."""
        wide = np.asarray(logits, dtype=np.float64)
        if task.independent:
            return wide
        centred: NDArray[np.float64] = wide - wide.mean(axis=1, keepdims=True)
        return centred

    def case_logits(self, logits: NDArray[Any], task: Task) -> NDArray[np.float64]:
        """The logits themselves."""
        return np.asarray(logits, dtype=np.float64)
