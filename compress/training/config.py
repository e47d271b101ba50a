"""How to train."""

from __future__ import annotations

import msgspec

from medfm_compress.runtime.errors import InputError


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to train.

    Attributes:
        epochs: 0 packages the weights as they are.
        batch_size: cases an optimizer step, over all processes together.
        micro_batch: cases that one process holds at once; 0 is its whole share of the batch (no accumulation).
        learning_rate: peak of the schedule.
        weight_decay: of AdamW, on matrices and filters only.
        warmup: fraction of all steps.
        ema: decay of the moving average, ramped up over the first steps.
        patience: epochs without a better validation score before it stops; 0 never stops early.
        freeze_backbone: train the classifier only.
        precision: ``auto`` is bf16 where the hardware has it.
        device: ``auto``, ``cpu`` or ``cuda``.
        compile: run the network through ``torch.compile``.
        modality: which augmentation is safe (see `augment`).
        checkpoint_minutes: a checkpoint is also written within an epoch, this often; 0 only after epochs.
        tensorboard: folder for TensorBoard's event files; empty writes none.
        seed: of weights' order, views and batches.
    """

    epochs: int = 12
    batch_size: int = 32
    micro_batch: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.08
    ema: float = 0.995
    patience: int = 5
    freeze_backbone: bool = False
    precision: str = "auto"
    device: str = "auto"
    compile: bool = False
    modality: str = "radiograph"
    checkpoint_minutes: float = 5.0
    tensorboard: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "epochs": (self.epochs, 0, 10_000),
            "batch_size": (self.batch_size, 1, 65_536),
            "micro_batch": (self.micro_batch, 0, 65_536),
            "learning_rate": (self.learning_rate, 1e-9, 10),
            "weight_decay": (self.weight_decay, 0, 10),
            "warmup": (self.warmup, 0, 1),
            "ema": (self.ema, 0, 1),
            "patience": (self.patience, 0, 10_000),
            "checkpoint_minutes": (self.checkpoint_minutes, 0, 1e6),
        }
        for name, (value, low, high) in bounds.items():
            if not low <= value <= high:
                raise InputError(f"{name} is {value}; it must be {low} to {high}")

    def outcome(self) -> TrainingConfig:
        """What of it decides the weights: not where logs go, nor how often a checkpoint is written."""
        return msgspec.structs.replace(self, tensorboard="", checkpoint_minutes=0.0)
