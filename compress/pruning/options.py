"""`PruneOptions`: the whole of what `prune` is asked to do, as a recipe or the command line says it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from medfm_compress.bench.types.target import TARGETS
from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.latency.latency_goal import LatencyGoal, parse_goal
from medfm_compress.compress.pruning.choices import AllocationName, Importance, Search
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.constraints import check
from medfm_compress.runtime.errors import InputError

MOST_STEPS = 16


class PruneOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to cut from a model, and how it recovers. One of the first four is the goal.

    Attributes:
        min_speedup: goal: times faster on the target.
        max_latency_ms: goal: latency of one image on the target, session alone.
        max_macs: goal: fraction of the multiply-accumulates to keep.
        max_size_mb: goal: size of the files that the target reads, in 10^6 bytes.
        target: where it will run, and where time and size are measured; empty for a goal of MACs without measuring.
        round_to: widths become multiples of it; 0 leaves it to the target.
        importance: what ranks channels: all but magnitude look at training cases.
        allocation: what ranks layers: ``measured`` on validation cases, ``global`` importance, or ``uniform``.
        search: of the allocation; evolution takes longer.
        embedding: let the width of a ViT's tokens shrink too.
        depth: let whole blocks be dropped too.
        repair: fit what is left of each layer to its former outputs.
        merge_tokens: tokens that every block of a ViT merges.
        sparse: keep 2 of every 4 weights in what is left, for TensorRT.
        steps: to reach the goal in, with a short recovery after each but the last.
        step_epochs: epochs of the short recoveries.
        training: of the recovery at the end; 0 epochs only prune.
        distillation: of every recovery.
    """

    min_speedup: Annotated[float, Meta(gt=1, examples=[2])] | None = None
    max_latency_ms: Annotated[float, Meta(gt=0, extra={"unit": "ms"})] | None = None
    max_macs: Annotated[float, Meta(gt=0, lt=1, examples=[0.5])] | None = None
    max_size_mb: Annotated[float, Meta(gt=0, extra={"unit": "MB"})] | None = None
    target: Annotated[str, TARGETS] = "openvino:cpu"
    round_to: Annotated[int, Meta(ge=0, le=256)] = 0
    importance: Importance = "taylor"
    allocation: AllocationName = "measured"
    search: Search = "knapsack"
    embedding: bool = True
    depth: bool = True
    repair: bool = True
    merge_tokens: Annotated[int, Meta(ge=0)] = 0
    sparse: bool = False
    steps: Annotated[int, Meta(ge=1, le=MOST_STEPS)] = 1
    step_epochs: Annotated[int, Meta(ge=1)] = 1
    training: TrainingConfig = TrainingConfig(epochs=10, learning_rate=5e-4)
    distillation: Distillation = Distillation()

    def __post_init__(self) -> None:
        self.goal()
        check(self)
        if self.sparse and not self.training.epochs:
            raise InputError("2:4 sparsity without recovery loses too much; give it some epochs")

    def goal(self) -> PruningGoal:
        """What to reach; raises InputError for a value outside its range."""
        return PruningGoal(
            macs=self.max_macs,
            speedup=self.min_speedup,
            latency_ms=self.max_latency_ms,
            size_mb=self.max_size_mb,
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
            return parse_goal(self.max_latency_ms or 1.0, self.target, 1)
        if self.max_macs is None:
            raise InputError("a goal of time or size needs a target, e.g. --target openvino:cpu:int8")
        return None
