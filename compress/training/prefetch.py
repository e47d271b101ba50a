"""Batches, looked up ahead by a thread so that the device does not wait for memory or disk.

The order of an epoch is a function of seed and epoch; process r of w takes cases r, r+w, … of each batch.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from medfm_compress.compress.training.distributed import rank, world_size
from medfm_compress.compress.training.job import Job, gather

_AHEAD = 3  # batches


class Raw(NamedTuple):
    """A part of a step's batch on the CPU, as stored: images ``[b, c, h, w]`` in [0, 1]."""

    images: Tensor
    cases: Tensor
    extras: dict[str, Tensor]


class Plan(NamedTuple):
    """Which cases make which step of an epoch: global batches of this process's parts."""

    steps: tuple[tuple[Tensor, ...], ...]
    sizes: tuple[int, ...]
    """Cases of each step over all processes."""


def plan_epoch(cases: int, batch_size: int, micro_batch: int, seed: int, epoch: int) -> Plan:
    """Deal one epoch out.

    A rest that would leave a process with fewer than two cases is left out: batch normalisation has no variance then.
    """
    order = torch.randperm(cases, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    whole = [index for index in torch.split(order, batch_size) if len(index) >= 2 * world_size()]
    mine = [index[rank() :: world_size()] for index in whole]
    parts = tuple(_parts(index, micro_batch or len(index)) for index in mine)
    return Plan(parts, tuple(len(index) for index in whole))


def _parts(index: Tensor, size: int) -> tuple[Tensor, ...]:
    """Nearly equal parts of at most ``size``, so that none is left with a single case."""
    return torch.tensor_split(index, -(-len(index) // size))


class Prefetcher:
    """Iterates the parts of one epoch from ``first_step`` on, and counts the seconds that the consumer waited."""

    def __init__(self, job: Job, plan: Plan, epoch: int, first_step: int, pin: bool) -> None:
        self.waited = 0.0
        self._job, self._plan, self._epoch, self._first, self._pin = job, plan, epoch, first_step, pin
        self._queue: queue.Queue[Raw | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True, name="feed")

    def __iter__(self) -> Iterator[Raw]:
        self._thread.start()
        try:
            while True:
                started = time.monotonic()
                item = self._queue.get()
                self.waited += time.monotonic() - started
                if item is None:
                    return
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            self._stop.set()

    def _fill(self) -> None:
        try:
            for parts in self._plan.steps[self._first :]:
                for index in parts:
                    if not self._put(self._look_up(index)):
                        return
            self._put(None)
        except BaseException as exc:  # noqa: BLE001 -- handed to the consumer, who raises it
            self._put(exc)

    def _look_up(self, index: Tensor) -> Raw:
        images = torch.from_numpy(gather(self._job.images, index.numpy()))
        extras = dict(self._job.extras(index, self._epoch))
        if self._pin:
            return Raw(images.pin_memory(), index, {name: tensor.pin_memory() for name, tensor in extras.items()})
        return Raw(images, index, extras)

    def _put(self, item: Raw | BaseException | None) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False
