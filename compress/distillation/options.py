"""What a student learns from: which terms, weighed how, on how many views."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from medfm_compress.compress.losses.names import LOSS_NAMES, LabelLoss
from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError


class Distillation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the student learns from.

    Attributes:
        losses: weight of each distillation term; without any, ``sigmoid`` for independent findings, ``pixel-kl`` and
            ``channel-wise`` for a segmentation, else ``kl``.
        temperature: of the distributions that are compared.
        teacher_weight: the teacher's share w of a labelled case; its label has 1 − w. Unlabelled cases have the teacher
            alone.
        label_loss: loss against the labels; without it ``cross-entropy``, of a segmentation ``dice-ce``.
        balanced: weight the label term of a classification by inverse class frequency.
        views: augmented views that the teacher's outputs are computed on, once; the epochs cycle through them.
        output_stride: pixels of the image, each way, that one pixel of the teacher's kept maps of a segmentation is the
            mean of; 1 keeps them whole.
        views_seed: seed of the views; not the training's, so that runs of several seeds share the teacher's outputs.
        unlabelled: learn from the study's unlabelled cases too.
        label_weight_column: column of the study that multiplies a case's label weight; empty for none.
        teacher_weight_column: column that multiplies a case's teacher weight; empty for none.
        qat: quantization-aware training: train with the values that INT8 will have, after training in float where
            nothing trained the student before; ``quantize`` then takes the ranges over.
        teacher_precision: precision of the teacher's arithmetic; auto is the fastest that stays faithful here.
    """

    losses: Annotated[dict[str, float], Meta(extra={"option": "loss", "lone": "1"})] = {}
    temperature: Annotated[float, Meta(gt=0)] = 3.0
    teacher_weight: Annotated[float, Meta(ge=0, le=1)] = 0.8
    label_loss: LabelLoss | None = None
    balanced: bool = True
    views: Annotated[int, Meta(ge=1, le=10_000)] = 6
    output_stride: Annotated[int, Meta(ge=1, le=16)] = 2
    views_seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0
    unlabelled: bool = True
    label_weight_column: str = ""
    teacher_weight_column: str = ""
    qat: bool = False
    teacher_precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"

    def __post_init__(self) -> None:
        check(self)
        for name, weight in self.losses.items():
            if name not in LOSS_NAMES:
                raise InputError(f"no distillation loss is called {name!r}; choose of {', '.join(LOSS_NAMES)}")
            if not weight > 0:
                raise InputError(f"the weight of loss {name!r} is {weight}; it must be above 0")
