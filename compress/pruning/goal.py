"""What pruning is to reach, and by which means."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medfm_compress.compress.pruning.choices import (
    ALLOCATIONS,
    IMPORTANCES,
    SEARCHES,
    AllocationName,
    Importance,
    Search,
)
from medfm_compress.runtime.errors import InputError

GOALS = ("speedup", "latency_ms", "macs", "size_mb")
_NARROW = 32
_WIDE = 128  # from here on INT8 kernels gain by multiples of 32; below, steps of 32 would be too coarse


@dataclass(frozen=True)
class PruningGoal:
    """What to reach: one of ``speedup``, ``latency_ms``, ``macs``, ``size_mb``; and by which means.

    Attributes:
        macs: fraction of the multiply–accumulates to keep, above 0 and below 1.
        speedup: times faster on the target, above 1.
        latency_ms: of one image on the target, session alone.
        size_mb: of the files that the target reads, in 10^6 bytes.
        round_to: widths become multiples of it; 0 takes 16, and 32 for layers from 128 on where the target is INT8.
        importance: what ranks the channels of a group, see `importance_scores`.
        allocation: ``measured`` cuts a group at several widths and looks at the answers, ``global`` adds up importance
            over all groups, ``uniform`` takes the same fraction everywhere. See `allocate`.
        search: of the first two.
        embedding: whether the width of tokens may shrink.
        depth: whether whole blocks may be dropped.
        repair: fit what is left of a layer's weights to the outputs that it had, see `reconstruct`.
        merge_tokens: tokens that each block of a ViT merges, see `tokens`; 0 for none.
        int8: whether the target is INT8.
        narrow_step: what ``round_to`` 0 takes for groups of fewer than 32 channels.
    """

    macs: float | None = None
    speedup: float | None = None
    latency_ms: float | None = None
    size_mb: float | None = None
    round_to: int = 0
    importance: Importance = "magnitude"
    allocation: AllocationName = "uniform"
    search: Search = "knapsack"
    embedding: bool = True
    depth: bool = True
    repair: bool = True
    merge_tokens: int = 0
    int8: bool = False
    narrow_step: int = 16

    def __post_init__(self) -> None:
        goals = {name: value for name in GOALS if (value := getattr(self, name)) is not None}
        if len(goals) != 1:
            described = ", ".join(f"{name} {value:g}" for name, value in goals.items()) or "none"
            raise InputError(
                f"pruning needs one goal of min_speedup, max_latency, max_macs and max_size; given: {described}"
            )
        if self.macs is not None and not 0 < self.macs < 1:
            raise InputError(f"macs is {self.macs}; the fraction to keep must be above 0 and below 1, e.g. 0.5")
        if self.speedup is not None and not 1 < self.speedup < math.inf:
            raise InputError(f"speedup is {self.speedup:g}; it must be above 1, e.g. 2")
        for name, value in (("latency", self.latency_ms), ("size", self.size_mb)):
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} is {value:g}; it must be above 0")
        if not 0 <= self.round_to <= 256:
            raise InputError(
                f"round_to is {self.round_to}; it must be 1 to 256, usually 16 or 32, or 0 for the target's"
            )
        if self.merge_tokens < 0:
            raise InputError(f"merge_tokens is {self.merge_tokens}; it must be 0 or more tokens a block")
        for what, chosen, allowed in (
            ("importance", self.importance, IMPORTANCES),
            ("allocation", self.allocation, ALLOCATIONS),
            ("search", self.search, SEARCHES),
        ):
            if chosen not in allowed:
                choices = ", ".join(allowed[:-1]) + f" or {allowed[-1]}"
                raise InputError(f"{what} is {chosen!r}; it must be {choices}")

    @property
    def timed(self) -> bool:
        """Whether it can only be reached by the target's clock."""
        return self.speedup is not None or self.latency_ms is not None

    def step(self, width: int) -> int:
        """What the widths of a group of ``width`` become multiples of."""
        if self.round_to:
            return self.round_to
        if width < _NARROW:
            return self.narrow_step
        return 32 if self.int8 and width >= _WIDE else 16
