"""One process, or many under ``torchrun``: who is first, who waits, on which device.

Lightning Fabric moves the gradients. ``torchrun --nproc-per-node N -m medfm_compress …`` sets ``RANK``, ``WORLD_SIZE``
and ``LOCAL_WORLD_SIZE``; without them there is one process.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import distributed

from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.device import best_device, best_precision

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_Value = TypeVar("_Value")
_PATIENCE = timedelta(hours=12)  # the first process may decode a study, or run a teacher, while the others wait


def start(config: TrainingConfig) -> Fabric:
    """Join the other processes, if there are any, on the device and in the precision of ``config``.

    Raises:
        InputError: an unknown device or precision, or a device that is not there.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces the precision on every start
    # A learner may leave parameters out of a step (a distillation token without its term); torch warns where none is.
    warnings.filterwarnings("ignore", message=".*find_unused_parameters=True was specified.*")
    device = best_device(config.device)
    precision = best_precision(config.precision, device)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=device,
        devices=local,
        num_nodes=max(1, world_size() // local),
        strategy=DDPStrategy(timeout=_PATIENCE, find_unused_parameters=True) if world_size() > 1 else "auto",
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


def take_device() -> None:
    """Make "cuda" mean this process's own GPU, one a process on each node."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())


def rank() -> int:
    """Number of this process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The first process runs the block, then the others, who find its files."""
    if not is_first():
        wait()
    yield
    if is_first():
        wait()


def wait() -> None:
    """Until every process is here."""
    if world_size() > 1:
        _join()
        distributed.barrier()


def _join() -> None:
    if not distributed.is_initialized():
        take_device()
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=_PATIENCE)


def agree(value: _Value) -> _Value:
    """The first process's value, on all of them; of plain Python types."""
    if world_size() == 1:
        return value
    box = [value]
    _join()
    distributed.broadcast_object_list(box)
    return box[0]


def total(value: float) -> float:
    """Sum over all processes."""
    if world_size() == 1:
        return value
    everyone: list[float] = [0.0] * world_size()
    distributed.all_gather_object(everyone, value)
    return sum(everyone)
