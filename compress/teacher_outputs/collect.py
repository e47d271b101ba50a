"""Run a teacher once on every view of every case, and keep its outputs."""

from __future__ import annotations

import time
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medfm_compress.compress.networks.inputs import Inputs, map_images, with_columns
from medfm_compress.compress.teacher_outputs.fastest_engine import Asked, fastest_engine
from medfm_compress.compress.teachers.output_cache import Groups, Header, OutputCache, ViewPlan, hash_of_cases
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.teacher import Teacher, batch_of
from medfm_compress.compress.training.augment import View, apply_view, draw_view
from medfm_compress.compress.training.distributed import rank, wait, world_size
from medfm_compress.compress.training.job import Columns, Images, gather
from medfm_compress.runtime.progress import Progress, Tick

_REPORT_EVERY_S = 1.0
_SHARD_BYTES = 1 << 26  # of logits in memory
_LARGEST = 3e4  # of a logit; float16 ends at 65504


class OutputRequest(NamedTuple):
    """What is collected.

    Attributes:
        images: ``[n, c, h, w]`` float32 in [0, 1], prepared by the teacher's spec.
        groups: the cases that they are, in the same order.
        plan: the views.
        features: of the teacher to keep beside its logits.
        precision: ``auto``, ``fp32``, ``bf16`` or ``int8``, see `fastest_engine`.
        stride: of the maps of a segmentation, see `Header`.
        columns: of the teacher beside the images, ``[n, width]`` each.
    """

    images: Images
    groups: Groups
    plan: ViewPlan
    features: tuple[str, ...] = ()
    precision: str = "auto"
    stride: int = 1
    columns: Columns = MappingProxyType({})

    def inputs(self, index: NDArray[np.int64]) -> Inputs:
        """Cases ``index`` ``[b]``, as a teacher is asked of them."""
        rows = {name: values[torch.from_numpy(index)] for name, values in self.columns.items()}
        return with_columns(torch.from_numpy(gather(self.images, index)), rows)


def collect_outputs(teacher: Teacher, request: OutputRequest, folder: Path, progress: Progress) -> OutputCache:
    """The teacher's outputs on all views; what an earlier call collected is read from ``folder``.

    Several processes share the shards.

    Args:
        teacher: runs at most once on each case and view, in the fastest engine that stays faithful.
        request: what is collected.
        folder: of the store.
        progress: told how far it is.

    Raises:
        ModelError: the teacher gives logits that are not finite.
        InputError: an unknown precision.
    """
    header = _header(teacher, request)
    store = OutputCache.answering(folder, header)
    if store is not None and not store.missing():
        wait()
        return store
    asked = Asked(len(request.images), request.inputs, request.features, len(request.plan.seeds))
    fast = fastest_engine(teacher, asked, request.precision, progress)
    header = msgspec.structs.replace(header, engine=fast.engine)
    if rank() == 0:
        OutputCache.begin(folder, header)
    wait()
    store = OutputCache(folder, header)
    missing = store.missing()
    wait()  # nobody writes before everybody has seen what is missing
    total = header.shards * len(request.plan.seeds)
    if missing and len(missing) < total:
        progress(f"teacher: {total - len(missing)} of {total} shards of answers are there, going on")
    _fill(_Collector(fast, request, store), missing[rank() :: world_size()], progress)
    wait()
    return store


def _header(teacher: Teacher, request: OutputRequest) -> Header:
    images = request.images
    first = teacher.answer(request.inputs(np.arange(min(2, len(images)))), request.features)
    header = Header(
        teacher=teacher.card,
        engine=teacher.engine,
        precision=request.precision,
        plan=request.plan,
        cases_sha256=hash_of_cases(request.groups, teacher.card.told),
        cases=len(images),
        features={name: tuple(value.shape[1:]) for name, value in first.features.items()},
        stride=request.stride if teacher.card.task.is_dense else 1,
    )
    if not teacher.card.task.is_dense:
        return header
    case_bytes = 4 * int(np.prod(header.logits_shape))
    cases = max(batch_of(teacher.card.task), min(header.shard_cases, _SHARD_BYTES // case_bytes))
    return msgspec.structs.replace(header, shard_cases=cases)


def reduced(logits: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Maps of logits ``[n, structures, h, w]`` averaged to ``shape`` of one case, and what float16 holds of them."""
    if logits.ndim == 2:
        return logits
    height, width = shape[1:]
    return functional.adaptive_avg_pool2d(logits, (height, width)).clamp(-_LARGEST, _LARGEST)


class _Collector:
    """Answers on one shard at a time."""

    def __init__(self, teacher: Teacher, request: OutputRequest, store: OutputCache) -> None:
        self.teacher, self.request, self.store = teacher, request, store
        self._size = batch_of(teacher.card.task)
        self._view_number = -1
        self._view: View | None = None

    def shard(self, view: int, shard: int) -> TeacherOutputs:
        rows = torch.tensor(self.store.header.rows(shard))
        parts = [self._batch(index, self._drawn(view)) for index in torch.split(rows, self._size)]
        features = {name: torch.cat([part.features[name] for part in parts]) for name in self.store.header.features}
        return TeacherOutputs(torch.cat([part.logits for part in parts]), features)

    def _batch(self, index: Tensor, view: View) -> TeacherOutputs:
        inputs = map_images(lambda images: apply_view(images, view, index), self.request.inputs(index.numpy()))
        answers = self.teacher.answer(inputs, self.request.features)
        return TeacherOutputs(reduced(answers.logits, self.store.header.logits_shape), answers.features)

    def _drawn(self, number: int) -> View:
        if self._view is None or self._view_number != number:
            plan, cases = self.store.plan, len(self.request.images)
            self._view_number, self._view = number, draw_view(plan.augmentation, cases, plan.seeds[number])
        return self._view


def _fill(collector: _Collector, missing: list[tuple[int, int]], progress: Progress) -> None:
    started = reported_at = time.monotonic()
    for number, (view, shard) in enumerate(missing):
        collector.store.write(view, shard, collector.shard(view, shard))
        now = time.monotonic()
        if now - reported_at > _REPORT_EVERY_S or number + 1 == len(missing):
            reported_at = now
            left = (now - started) / (number + 1) * (len(missing) - number - 1)
            size = f"{collector.store.bytes_per_case:.0f} bytes a case"
            progress(Tick(f"teacher, shards of answers ({size})", number + 1, len(missing), left))
