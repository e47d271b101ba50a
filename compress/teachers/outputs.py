"""What a teacher says of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's outputs on ``n`` images, on the CPU.

    Attributes:
        logits: ``[n, labels]`` float32, of a segmentation ``[n, structures, h, w]``.
        features: name → ``[n, …]`` float32 or float16, see `features`.
    """

    logits: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
