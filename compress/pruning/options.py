"""`PruneOptions`: the whole of what `prune` is asked to do, as a recipe or the command line says it."""

from __future__ import annotations

import msgspec

from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.latency.latency_goal import LatencyGoal, parse_goal
from medfm_compress.compress.pruning.allocate import Search
from medfm_compress.compress.pruning.goal import AllocationName, PruningGoal
from medfm_compress.compress.pruning.importance import Importance
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import InputError

MOST_STEPS = 16


class PruneOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to cut from a model, and how it recovers. One of the first four is given.

    Attributes:
        speedup: times faster on the target.
        latency_ms: of one image on the target, session alone.
        macs: fraction of the multiply-accumulates to keep.
        size_mb: of the files that the target reads, in 10^6 bytes.
        target: where time and size are measured; empty for a goal of MACs alone, of which no time is then told.
        threads: there.
        round_to: widths become multiples of it; 0 leaves it to the target.
        importance: ``taylor``, ``hessian``, ``magnitude`` or ``activation``.
        allocation: ``measured``, ``global`` or ``uniform``.
        search: ``knapsack`` or ``evolution``.
        embedding: whether the width of tokens may shrink.
        depth: whether whole blocks may be dropped.
        repair: fit what is left of a layer's weights to the outputs that it had.
        merge_tokens: tokens that each block of a ViT merges.
        sparse: keep 2 of every 4 weights in what is left, for TensorRT.
        steps: to reach the goal in; after each but the last the model recovers for ``step_epochs``.
        step_epochs: see ``steps``.
        training: of the recovery at the end; 0 epochs only prune.
        distillation: of every recovery.
    """

    speedup: float | None = None
    latency_ms: float | None = None
    macs: float | None = None
    size_mb: float | None = None
    target: str = "openvino:cpu"
    threads: int = 1
    round_to: int = 0
    importance: Importance = "taylor"
    allocation: AllocationName = "measured"
    search: Search = "knapsack"
    embedding: bool = True
    depth: bool = True
    repair: bool = True
    merge_tokens: int = 0
    sparse: bool = False
    steps: int = 1
    step_epochs: int = 1
    training: TrainingConfig = TrainingConfig(epochs=10, learning_rate=5e-4)
    distillation: Distillation = Distillation()

    def __post_init__(self) -> None:
        self.goal()
        if not 1 <= self.steps <= MOST_STEPS:
            raise InputError(f"steps is {self.steps}; it must be 1 to {MOST_STEPS}")
        if self.step_epochs < 1:
            raise InputError(f"step_epochs is {self.step_epochs}; it must be at least 1, or give --steps 1")
        if self.sparse and not self.training.epochs:
            raise InputError("2:4 sparsity without recovery loses too much; give it some epochs")

    def goal(self) -> PruningGoal:
        """What to reach; raises InputError for a value outside its range."""
        return PruningGoal(
            macs=self.macs,
            speedup=self.speedup,
            latency_ms=self.latency_ms,
            size_mb=self.size_mb,
            round_to=self.round_to,
            importance=self.importance,
            allocation=self.allocation,
            search=self.search,
            embedding=self.embedding,
            depth=self.depth,
            repair=self.repair,
            merge_tokens=self.merge_tokens,
            int8=":int8" in self.target,
        )

    def latency_goal(self) -> LatencyGoal | None:
        """The target to measure on; None where none is wanted.

        Raises:
            InputError: a target that is unknown or cannot run here, or none for a goal of time or size.
        """
        if self.target:
            return parse_goal(self.latency_ms or 1.0, self.target, self.threads)
        if self.macs is None:
            raise InputError("a goal of time or size needs a target, e.g. --target openvino:cpu:int8")
        return None
