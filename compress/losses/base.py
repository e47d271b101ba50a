"""What a distillation term sees of one batch, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from medfm_compress.runtime.task import Task


@dataclass(frozen=True)
class DistillationBatch:
    """One batch of ``b`` cases, everything float32 on one device.

    Attributes:
        student: logits ``[b, labels]``, of a segmentation ``[b, structures, h, w]``; with gradient.
        teacher: logits of the same shape.
        student_features: name → tensor, see `features`; with gradient.
        teacher_features: likewise, of the teacher.
    """

    student: Tensor
    teacher: Tensor
    student_features: Mapping[str, Tensor] = field(default_factory=dict)
    teacher_features: Mapping[str, Tensor] = field(default_factory=dict)


class Term(Protocol):
    """A distillation term; one that learns something (a projection) is also an ``nn.Module``.

    Attributes:
        student_features: names that it reads of the student, see `features`.
        teacher_features: names that it reads of the teacher.
    """

    student_features: tuple[str, ...]
    teacher_features: tuple[str, ...]

    def applies_to(self, task: Task) -> str:
        """Empty, or the reason why this term means nothing for a task."""
        ...

    def __call__(self, batch: DistillationBatch) -> Tensor:
        """Loss of each case ``[b]``, at least 0; a relation among the whole batch gives every case the same value."""
        ...
