"""What the engine trains: a learner, its batches, and the score that says how well it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from medfm_compress.compress.networks.inputs import Inputs, with_columns

Images = Any
"""``[n, channels, height, width]`` float32 in [0, 1]: an array, a memory map, whatever an index array indexes."""
Columns = Mapping[str, Tensor]
"""Column → float32 ``[n, width]`` on the CPU."""
Extras = Callable[[Tensor, int], Mapping[str, Tensor]]
"""(case index ``[b]``, epoch) → name → tensor ``[b, …]`` on the CPU."""


class Batch(NamedTuple):
    """Cases of one step on one process, on the training device.

    Attributes:
        images: ``[b, channels, height, width]`` float32, augmented, normalised.
        cases: ``[b]`` int64 on the CPU, which training cases they are.
        epoch: number of the epoch, from 0.
        extras: what the job's ``extras`` looked up for them, e.g. targets and a teacher's answers.
        columns: of the network beside its images, ``[b, width]`` each.
    """

    images: Tensor
    cases: Tensor
    epoch: int
    extras: dict[str, Tensor]
    columns: Mapping[str, Tensor] = MappingProxyType({})

    @property
    def inputs(self) -> Inputs:
        """What the network is called with."""
        return with_columns(self.images, self.columns)


class Views(Protocol):
    """Augmentation as the engine needs it."""

    def apply(self, images: Tensor, epoch: int, index: Tensor) -> Tensor:
        """Augmented images ``[b, c, h, w]`` in [0, 1]; decided by epoch and index alone, not by what ran before."""
        ...

    def move(self, maps: Tensor, epoch: int, index: Tensor) -> Tensor:
        """Label maps ``[b, h, w]``, moved as the images of the same epoch and index are."""
        ...


def no_extras(index: Tensor, epoch: int) -> Mapping[str, Tensor]:
    """For a job that needs nothing but images."""
    return {}


@dataclass(frozen=True)
class Job:
    """Everything that the engine needs besides its config.

    Attributes:
        learner: its ``forward(batch)`` gives the scalar loss, a mean over the batch's cases; holds ``network``.
        network: averaged, scored and returned.
        images: training images.
        views: augmentation.
        mean: of the spec, one a channel; subtracted after augmentation.
        std: likewise, divided by.
        extras: what a batch carries besides its images.
        columns: that the network takes beside them: name → ``[n, width]`` of all training cases.
        moving: names of extras that are label maps, and move with the images.
        score: of the averaged network on validation cases, higher is better; called on the first process only.
        score_name: what progress calls it.
        checkpoint: where a killed run goes on from; None keeps nothing.
        fingerprint: of everything that decides the outcome; a checkpoint of another one is not used.
    """

    learner: nn.Module
    network: nn.Module
    images: Images
    views: Views
    mean: tuple[float, ...]
    std: tuple[float, ...]
    score: Callable[[nn.Module], float]
    extras: Extras = no_extras
    columns: Columns = field(default_factory=dict)
    moving: tuple[str, ...] = ()
    score_name: str = "val AUROC"
    checkpoint: Path | None = None
    fingerprint: str = ""


@dataclass(frozen=True)
class Trained:
    """The best averaged network seen, on the CPU in eval mode, and the course of training.

    Attributes:
        network: the job's, with the best averaged weights.
        best: its score.
        history: a row an epoch: epoch, loss, score, seconds, waited (fraction of it that the device had no batch).
    """

    network: nn.Module
    best: float
    history: tuple[dict[str, float], ...]

    def epochs_of(self, wanted: int) -> str:
        """How many of the epochs that were ``wanted`` it took, in words."""
        took = len(self.history)
        return f"{took} epochs" if took >= wanted else f"{took} of {wanted} epochs, after which no score was better"


def gather(images: Images, index: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows ``index`` of ``images`` as one contiguous array."""
    rows: NDArray[np.float32] = np.ascontiguousarray(images[index], dtype=np.float32)
    return rows
