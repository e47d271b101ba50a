"""Kind of task → its rules. What differs between kinds is asked for here, never by ``if task.kind``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task, TaskKind, by_kind
from medfm_compress.runtime.tasks.classification import ClassificationRules
from medfm_compress.runtime.tasks.segmentation import SegmentationRules


class TaskRules(Protocol):
    """What the logits of one kind of task look like, and what may be compared of them."""

    def logits_shape(self, task: Task, spec: ImageSpec) -> tuple[int, ...]:
        """Shape of the logits of one case, its batch axis of 1 first."""
        ...

    def check_spec(self, task: Task, spec: ImageSpec) -> None:
        """Raises InputError where an answer on an input of ``spec`` cannot be laid back on the image."""
        ...

    def comparable(self, logits: NDArray[Any], task: Task) -> NDArray[np.float64]:
        """``[rows, labels]`` float64 of logits ``[n, …]``: without what the activation ignores, one row an answer."""
        ...

    def case_logits(self, logits: NDArray[Any], task: Task) -> NDArray[np.float64]:
        """``[n, labels]`` float64 of logits ``[n, …]``: one row a case, from which its scores follow."""
        ...


_RULES: Mapping[TaskKind, TaskRules] = by_kind(ClassificationRules(), SegmentationRules())


def rules_of(task: Task) -> TaskRules:
    """The rules of a task's kind."""
    return _RULES[task.kind]
