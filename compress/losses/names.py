"""Names of the terms of a loss, as recipes and the command line give them; what they are stands in `registry`."""

from __future__ import annotations

from typing import Literal, get_args

LabelLoss = Literal["cross-entropy", "focal", "class-balanced", "dice-ce", "focal-tversky", "boundary"]
LossName = Literal[
    "kl",
    "sigmoid",
    "token-hard",
    "token-soft",
    "decoupled",
    "dist",
    "feature",
    "attention",
    "relational",
    "pixel-kl",
    "channel-wise",
    "boundary-kl",
]
LOSS_NAMES: tuple[LossName, ...] = get_args(LossName)
