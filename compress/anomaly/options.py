"""Where an encoder comes from; what is fitted on normal cases, and how large it may be."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.image_spec import Colour


class EncoderSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an encoder comes from, and what its file does not say of itself.

    Attributes:
        encoder: encoder folder of ``embed``, model folder, backbone folder of ``pretrain``, or timm name.
        weights: of a timm name: local safetensors, state dict or backbone folder.
        image_size: input of a timm name in pixels.
        colour: of the images of a timm name; without it, that of the study's first training image.
        level: number of a feature map that is read, from 0; without any, those of strides 8 and 16. A distilled encoder
            has its own.
        licence: of the weights; empty takes what their folder says.
        intended_use: what their publisher says they are for; empty takes what their folder says.
    """

    encoder: Annotated[str, Meta(extra={"argument": True})]
    weights: str = ""
    image_size: Annotated[int, Meta(ge=32, le=1024)] = 224
    colour: Colour | None = None
    level: tuple[int, ...] = ()
    licence: str = ""
    intended_use: str = ""

    def __post_init__(self) -> None:
        check(self)


class AnomalyFit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is fitted on normal cases, and how large it may be.

    Attributes:
        scorer: ``knn``, the mean distance of the image's embedding to its nearest neighbours; ``mahalanobis``, its
            distance to their mean in standard deviations; ``patches``, the greatest distance of a place to the nearest
            normal place, with a map.
        length: numbers of the embedding that are used; 0 is all of a distilled encoder, and 64 of another.
        neighbours: nearest rows that ``knn`` takes the mean of, and whose training cases are shown.
        memory_rows: embeddings that are kept at most, chosen to cover all others.
        memory_budget_mb: that they may take.
        storage: of a number in the memory.
        seed: of what is drawn where there are too many places to look at.
    """

    scorer: Literal["knn", "mahalanobis", "patches"] = "knn"
    length: Annotated[int, Meta(ge=0, le=4096)] = 0
    neighbours: Annotated[int, Meta(ge=1, le=64)] = 5
    memory_rows: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    memory_budget_mb: Annotated[float, Meta(gt=0, le=1024, extra={"unit": "MB"})] = 1.0
    storage: Literal["float16", "int8"] = "float16"
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0

    def __post_init__(self) -> None:
        check(self)
        if self.scorer != "mahalanobis" and self.memory_rows < self.neighbours:
            raise InputError(
                f"{self.neighbours} neighbours are taken and the memory has at most {self.memory_rows} rows; give "
                "fewer --neighbours or more --memory-rows"
            )
