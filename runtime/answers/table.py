"""Kind of task → how an image is asked about."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from medfm_compress.runtime.answers.anomaly import score_image
from medfm_compress.runtime.answers.answer import Ask
from medfm_compress.runtime.answers.classification import classify
from medfm_compress.runtime.task import Task, TaskKind


def ask_of(task: Task) -> Ask:
    """How the networks of a task's kind are asked; what segmentation needs is loaded for it alone."""
    if task.kind in _ASKS:
        return _ASKS[task.kind]
    from medfm_compress.runtime.answers.segmentation import segment_image

    return segment_image


_ASKS: Mapping[TaskKind, Ask] = MappingProxyType(
    {"binary": classify, "multiclass": classify, "multilabel": classify, "anomaly": score_image}
)
