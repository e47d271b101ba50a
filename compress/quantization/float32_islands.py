"""Which nodes must stay in FP32 when a graph becomes FP16: found by measuring, on the user's own cases.

The error of a set S of nodes in FP16 is the relative logit error e(S) of the emulated graph (`float16_emulation`)
against FP32. Rounding errors of different nodes are nearly independent, so that for disjoint groups

    e(S₁ ∪ S₂ ∪ …)² ≈ Σ e(Sᵢ)²

and the groups with the largest e are kept in FP32 until the rest is within the limit. Groups start as all nodes of one
operator. A group that would be kept is halved in graph order and both halves are measured, until single nodes are left
or the runs are used up. Nodes that read or make numbers beyond FP16's largest are kept beforehand. What holds is
decided by measuring the whole, never by the sum; an infinite logit is an infinite error.

Cf. Dong et al. 2019, HAWQ (https://arxiv.org/abs/1905.03696) for precision by measured sensitivity.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.float16_emulation import Emulation, largest_values
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.progress import Progress, no_progress
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    import onnx_ir as ir

LIMIT = 0.005
RUNS = 150
_LARGEST = float(np.finfo(np.float16).max)
_TIGHTER = 0.8  # of the limit on the sum, each time the whole was measured beyond the limit


class Islands(msgspec.Struct, frozen=True, kw_only=True):
    """What stays in FP32, and what that was measured to do.

    Attributes:
        keep: names of nodes, in graph order.
        error: relative logit error with all others in FP16.
        all_half: the same with no node kept; infinite where a number overflows.
        limit: that ``error`` had to hold.
        nodes: number of nodes that compute on floats.
        runs: how many sets of nodes were measured.
        overflowing: of ``keep``, those that read or make numbers beyond 65504.
    """

    keep: tuple[str, ...]
    error: float
    all_half: float
    limit: float
    nodes: int
    runs: int
    overflowing: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the error is within the limit."""
        return self.error <= self.limit


class _Group(msgspec.Struct, frozen=True):
    nodes: tuple[str, ...]
    error: float


def find_islands(
    model: ir.Model,
    cases: NDArray[np.float32],
    task: Task | None = None,
    *,
    limit: float = LIMIT,
    runs: int = RUNS,
    progress: Progress = no_progress,
) -> Islands:
    """The nodes to keep in FP32 so that the relative logit error on ``cases`` is within ``limit``.

    Args:
        model: FP32, one image input, logits ``[n, labels]``.
        cases: calibration inputs ``[n, C, H, W]``; each set of nodes is run on all of them.
        task: how logits are compared.
        limit: of the relative logit error, > 0.
        runs: about how many sets to measure; beyond, groups are kept as they are.
        progress: hears of the runs.

    Raises:
        InputError: a limit that is not positive, or no case.
    """
    if not (limit > 0 and len(cases)):
        raise InputError(f"limit {limit} on {len(cases)} cases; give a limit above 0 and at least one case")
    emulation = Emulation(model, cases)
    overflowing = {name for name, largest in largest_values(model, cases).items() if largest > _LARGEST}
    return _Search(emulation, task, limit, runs, progress).islands(overflowing)


class _Search:
    def __init__(self, emulation: Emulation, task: Task | None, limit: float, runs: int, progress: Progress) -> None:
        self._emulation, self._task, self._limit, self._runs = emulation, task, limit, runs
        self._progress = progress
        self._reference = emulation.logits(())
        self._groups: list[_Group] = []

    def islands(self, overflowing: Collection[str]) -> Islands:
        nodes = self._emulation.nodes
        all_half = self._error(nodes)
        keep, error = set(overflowing), all_half
        if keep:
            error = self._error([name for name in nodes if name not in keep])
        target = self._limit
        while error > self._limit and len(keep) < len(nodes):
            self._groups = self._groups or self._by_kind(overflowing)
            keep = {name for group in self._refined(target) for name in group.nodes}.union(overflowing)
            error = self._error([name for name in nodes if name not in keep])
            target *= _TIGHTER
        return Islands(
            keep=tuple(name for name in nodes if name in keep), error=error, all_half=all_half, limit=self._limit,
            nodes=len(nodes), runs=self._emulation.runs, overflowing=tuple(n for n in nodes if n in overflowing),
        )  # fmt: skip

    def _by_kind(self, without: Collection[str]) -> list[_Group]:
        kinds: dict[str, tuple[str, ...]] = {}
        for name, kind in zip(self._emulation.nodes, self._emulation.kinds, strict=True):
            if name not in without:
                kinds[kind] = (*kinds.get(kind, ()), name)
        return [_Group(members, self._error(members)) for members in kinds.values()]

    def _refined(self, target: float) -> list[_Group]:
        """The groups to keep, halved until they are single nodes or the runs are used up."""
        while True:
            kept = self._worst(target)
            large = [group for group in kept if len(group.nodes) > 1]
            if not large or self._emulation.runs + 2 > self._runs:
                return kept
            group = max(large, key=lambda group: len(group.nodes))
            middle = len(group.nodes) // 2
            halves = (group.nodes[:middle], group.nodes[middle:])
            self._groups.remove(group)
            self._groups += [_Group(half, self._error(half)) for half in halves]
            self._progress(f"{self._emulation.runs} sets of nodes measured in FP16")

    def _worst(self, target: float) -> list[_Group]:
        """As few groups as leave a sum of squares within ``target``²: by error for each node that is kept."""
        ordered = sorted(self._groups, key=lambda group: group.error**2 / len(group.nodes))
        total, number = 0.0, 0
        while number < len(ordered) and total + ordered[number].error ** 2 <= target**2:
            total += ordered[number].error ** 2
            number += 1
        return ordered[number:]

    def _error(self, half: tuple[str, ...] | list[str]) -> float:
        return relative_logit_error(self._emulation.logits(half), self._reference, self._task)
