"""What an encoder learns from its teachers."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError


class EmbeddingDistillation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an encoder learns from its teachers.

    Attributes:
        length: numbers of a nested embedding, ascending; the longest is the whole.
        teacher_length: principal components of each teacher's features that are learned from, at most.
        direction: weight of the directions of the teachers' features, which a linear map of each length predicts.
        relations: weight of the distances between images, and between places, which each length shall have itself.
        views: augmented views that the teachers answer on, once; the epochs cycle through them.
        views_seed: seed of the views; not the training's, so that runs of several seeds share the answers.
    """

    length: tuple[Annotated[int, Meta(ge=1, le=4096)], ...] = (16, 32, 64)
    teacher_length: Annotated[int, Meta(ge=2, le=1024)] = 128
    direction: Annotated[float, Meta(ge=0, le=1000)] = 1.0
    relations: Annotated[float, Meta(ge=0, le=1000)] = 1.0
    views: Annotated[int, Meta(ge=1, le=10_000)] = 4
    views_seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0

    def __post_init__(self) -> None:
        check(self)
        if not self.length or list(self.length) != sorted(set(self.length)):
            raise InputError(f"lengths are {', '.join(map(str, self.length))}; name them ascending, each once")
        if not self.direction + self.relations > 0:
            raise InputError("direction and relations both weigh 0, so that nothing is learned; raise one of them")
