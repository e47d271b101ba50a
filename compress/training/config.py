"""How to train."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from medfm_compress.runtime.constraints import check

Modality = Literal["radiograph", "dermoscopy", "histology", "endoscopy", "none"]

PRETRAINED_BACKBONE_RATE = 0.3
"""Of the classifier's learning rate; docs/results/pretrained-start.md has the experiment."""


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train.

    Attributes:
        epochs: passes over the training cases; 0 trains nothing.
        batch_size: cases an optimizer step, over all processes together.
        micro_batch: cases that one process holds at once; 0 is its whole share of the batch (no accumulation).
        learning_rate: at the peak of the schedule.
        weight_decay: of AdamW, on matrices and filters only.
        warmup: fraction of all steps in which the learning rate rises.
        ema: decay of the moving average of weights, which is scored and kept; ramped up over the first steps.
        patience: epochs without a better validation score before it stops; 0 never stops early.
        backbone_rate: learning rate of all but the classifier, as a share of ``learning_rate``; without it 0.3 where
            ``finetune`` starts from a file of weights or the hub, else 1.
        freeze_backbone: train the classifier only.
        precision: of the arithmetic; ``auto`` is bf16 where the hardware has it.
        device: that trains; ``auto`` is cuda where there is one.
        compile: run the network through ``torch.compile``.
        modality: kind of images, which decides what augmentation is safe.
        checkpoint_minutes: minutes between checkpoints within an epoch; 0 writes them after epochs only.
        tensorboard: folder for TensorBoard's event files; empty writes none.
        seed: of weights' order, views and batches.
    """

    epochs: Annotated[int, Meta(ge=0, le=10_000)] = 12
    batch_size: Annotated[int, Meta(ge=1, le=65_536)] = 32
    micro_batch: Annotated[int, Meta(ge=0, le=65_536)] = 0
    learning_rate: Annotated[float, Meta(ge=1e-9, le=10)] = 1e-3
    weight_decay: Annotated[float, Meta(ge=0, le=10)] = 0.05
    warmup: Annotated[float, Meta(ge=0, le=1)] = 0.08
    ema: Annotated[float, Meta(ge=0, le=1)] = 0.995
    patience: Annotated[int, Meta(ge=0, le=10_000)] = 5
    backbone_rate: Annotated[float, Meta(ge=0, le=1)] | None = None
    freeze_backbone: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    modality: Modality = "radiograph"
    checkpoint_minutes: Annotated[float, Meta(ge=0, le=1e6)] = 5.0
    tensorboard: str = ""
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)] = 0

    def __post_init__(self) -> None:
        check(self)

    def starting(self, *, pretrained: bool) -> TrainingConfig:
        """The same with ``backbone_rate`` decided."""
        if self.backbone_rate is not None:
            return self
        return msgspec.structs.replace(self, backbone_rate=PRETRAINED_BACKBONE_RATE if pretrained else 1.0)

    def outcome(self) -> TrainingConfig:
        """What of it decides the weights: not where logs go, nor how often a checkpoint is written."""
        return msgspec.structs.replace(self, tensorboard="", checkpoint_minutes=0.0)
