"""What a killed training run goes on from: tensors and numbers only, read with ``weights_only=True``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medfm_compress.runtime.files import replacing


@dataclass
class Checkpoint:
    """State after the last finished epoch; mutated by the loop that owns it."""

    best: dict[str, Tensor]
    best_epoch: int = -1
    history: tuple[dict[str, float], ...] = ()
    module: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    rng: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.uint8))


def save_checkpoint(path: Path | None, state: Checkpoint, fingerprint: str) -> None:
    """Write ``state`` atomically; ``fingerprint`` names the job that it belongs to."""
    if path is None:
        return
    content = {**vars(state), "history": list(state.history), "fingerprint": fingerprint}
    with replacing(path) as temporary:
        torch.save(content, temporary)


def load_checkpoint(path: Path | None, fingerprint: str) -> Checkpoint | None:
    """The state at ``path`` if it belongs to this job; a checkpoint of another job is not used."""
    if path is None or not path.is_file():
        return None
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content.pop("fingerprint") != fingerprint:
        return None
    return Checkpoint(**{**content, "history": tuple(content["history"])})
