"""What a student learns from: which terms, weighed how, on how many views."""

from __future__ import annotations

import msgspec

from medfm_compress.compress.losses.registry import TERMS
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task


class Distillation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the student learns from.

    Attributes:
        losses: term → weight, see `losses`; empty takes ``sigmoid`` for independent findings, else ``kl``.
        temperature: of both distributions, above 0.
        teacher_weight: w in [0, 1] of a labelled case; its label has 1 − w. Unlabelled cases have the teacher alone.
        label_loss: ``cross-entropy``, ``focal`` or ``class-balanced``.
        balanced: weight the label term by inverse class frequency.
        views: augmented views that the teacher answers on, at least 1; the epochs cycle through them.
        views_seed: of the views; not the training's, so that runs of several seeds share the teacher's answers.
        unlabelled: learn from the study's unlabelled cases too.
        label_weight_column: column of the study that multiplies a case's label weight; empty for none.
        teacher_weight_column: likewise its teacher weight.
        quantize: ``int8`` trains with the values that INT8 will have, after training in float where nothing trained the
            student before; empty trains in float alone.
        teacher_precision: ``auto``, ``fp32``, ``bf16`` or ``int8``; auto is the fastest that stays faithful here.
    """

    losses: dict[str, float] = {}
    temperature: float = 3.0
    teacher_weight: float = 0.8
    label_loss: str = "cross-entropy"
    balanced: bool = True
    views: int = 6
    views_seed: int = 0
    unlabelled: bool = True
    label_weight_column: str = ""
    teacher_weight_column: str = ""
    quantize: str = ""
    teacher_precision: str = "auto"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"temperature is {self.temperature}; it must be above 0")
        if not 0 <= self.teacher_weight <= 1:
            raise InputError(f"teacher_weight is {self.teacher_weight}; it must be 0 to 1")
        if self.views < 1:
            raise InputError(f"views is {self.views}; it must be at least 1")
        if self.quantize not in ("", "int8"):
            raise InputError(f"quantize is {self.quantize!r}; it must be int8, or empty for a student in float")
        for name, weight in self.losses.items():
            if name not in TERMS:
                raise InputError(f"no distillation loss is called {name!r}; choose of {', '.join(TERMS)}")
            if not weight > 0:
                raise InputError(f"the weight of loss {name!r} is {weight}; it must be above 0")


def default_losses(task: Task) -> dict[str, float]:
    """Term → weight: ``sigmoid`` for independent findings, else ``kl``.

    No other term was better by more than the spread of seeds, for any pair of families that was tried: see
    docs/results/distillation.md.
    """
    return {"sigmoid": 1.0} if task.kind == "multilabel" else {"kl": 1.0}
