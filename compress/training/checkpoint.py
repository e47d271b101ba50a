"""What a killed training run goes on from: tensors and numbers only, read with ``weights_only=True``.

No generator state is kept: order, views and the generators that dropout draws from are functions of seed and step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfm_compress.runtime.atomic_write import replacing


@dataclass
class Checkpoint:
    """State after ``step`` steps of the epoch that follows ``history``; mutated by the loop that owns it.

    Attributes:
        best: weights of the best averaged network so far.
        best_epoch: its number, −1 before the first.
        history: a row a finished epoch.
        step: steps done in the epoch that is under way.
        loss_sum: of those steps.
        learner: state dict.
        average: state dict of the averaged network.
        optimizer: state dict.
    """

    best: dict[str, Tensor]
    best_epoch: int = -1
    history: tuple[dict[str, float], ...] = ()
    step: int = 0
    loss_sum: float = 0.0
    learner: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path | None, state: Checkpoint, fingerprint: str) -> None:
    """Write ``state`` atomically; ``fingerprint`` names the job that it belongs to."""
    if path is None:
        return
    content = {**vars(state), "history": list(state.history), "fingerprint": fingerprint}
    with replacing(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path | None, fingerprint: str) -> Checkpoint | None:
    """The state at ``path`` if it belongs to this job; one of another job, or a damaged one, is not used."""
    if path is None or not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content.pop("fingerprint") != fingerprint:
            return None
        return Checkpoint(**{**content, "history": tuple(content["history"])})
    except Exception:  # noqa: BLE001 -- torch names no common base for what a damaged file raises
        return None
