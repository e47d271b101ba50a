"""Choose the width of every group so that a goal is met; on the target's own clock where the goal is time.

A cost model predicts, and what it predicts is then made and measured. Where the two differ, the budget is corrected by
their ratio and the choice made again, so that the goal holds for what is measured and not for what was hoped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from medfm_compress.bench.types.sensitivity import SensitivityPoint
from medfm_compress.compress.networks.attention_layers import find_attentions
from medfm_compress.compress.networks.block_removal import droppable_blocks
from medfm_compress.compress.networks.macs import count_macs
from medfm_compress.compress.pruning.allocate import Allocation, Sensitivities, deepest, evolve, knapsack, uniform
from medfm_compress.compress.pruning.apply import remove_channels, temporarily
from medfm_compress.compress.pruning.channel_groups import ChannelGroup, Protected, find_channel_groups, head_groups
from medfm_compress.compress.pruning.cost_model import CostModel, macs_cost, size_cost
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.importance import NEEDS_CASES, Batch, Loss, gather, importance_scores
from medfm_compress.compress.pruning.isolation_check import check_in_isolation
from medfm_compress.compress.pruning.linear_attention import linear_attention_groups
from medfm_compress.compress.pruning.reconstruction import Reconstruction, recalibrate
from medfm_compress.compress.pruning.sensitivity import (
    ValidationSet,
    measure_sensitivity,
    sensitivity_at_levels,
    sensitivity_from_importance,
)
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.progress import Progress, no_progress

_COUNTED = 1e-6  # predicted and counted MACs agree but for rounding
_MEASURED = 0.01  # two measurements of one network differ by as much
_CLOSE = 0.95  # of the budget: near enough
_CORRECTIONS = 8
_ABSOLUTE = frozenset({"taylor", "hessian"})  # their scores estimate the loss itself


class LatencyMeter(Protocol):
    """The target: what networks cost there. See `target_latency`."""

    def cost_model(self, module: nn.Module, groups: Sequence[ChannelGroup]) -> CostModel:
        """Time in ms by layer."""
        ...

    def measure(self, module: nn.Module) -> float:
        """Time of one image in ms, session alone."""
        ...

    def size(self, module: nn.Module) -> int:
        """Bytes of the files that the target reads."""
        ...

    @property
    def floor_ms(self) -> float:
        """What an empty graph takes."""
        ...


@dataclass(frozen=True)
class PruningData:
    """What a network is pruned by.

    Attributes:
        train: batches of training cases, for importance, repair and running statistics.
        loss: mean loss of logits and targets, for importance.
        validation: validation cases, for measured sensitivity; None where there are none.
        target_latency: the target; needed for goals of time and size.
        curves: sensitivity that is known already; filled as it is measured.
        progress: receives one line at a time.
    """

    train: Sequence[Batch] = ()
    loss: Loss | None = None
    validation: ValidationSet | None = None
    target_latency: LatencyMeter | None = None
    curves: MutableMapping[str, tuple[SensitivityPoint, ...]] = field(default_factory=dict)
    progress: Progress = no_progress


NO_DATA = PruningData()


class Before(NamedTuple):
    """The network that was given, and its MACs."""

    module: nn.Module
    macs: int


class ChosenWidths(NamedTuple):
    """Widths, and what they turned out to cost, and the whole before; 0 where the goal is MACs, counted later."""

    allocation: Allocation
    measured: float = 0.0
    before: float = 0.0


class WidthSearch:
    """A copy of the network on its way to the goal."""

    def __init__(self, module: nn.Module, example: Tensor, goal: PruningGoal, data: PruningData) -> None:
        """Find and score all groups of ``module``, which is cut in place by `carry_out`."""
        self.module, self.example, self.goal, self.data = module, example, goal, data
        self.groups, self.protected = all_channel_groups(module, example, goal)
        wide = [group for group in self.groups if group.kind != "block"]
        evidence = gather(module, wide, goal.importance, data.train, _loss(goal, data))
        self.importance_scores = {group.name: importance_scores(group, evidence) for group in wide}
        self._repair = Reconstruction(module, wide, data.train) if goal.repair and data.train else None

    def search(self, before: Before) -> ChosenWidths:
        """Widths that meet the goal.

        Raises:
            InputError: a goal that needs cases or a target that are not given.
            ModelError: the goal is out of reach.
        """
        cost_model, budget = self._cost_model_and_budget(before)
        self._check(cost_model, budget, before)
        sensitivities = self._sensitivities()
        if self.goal.macs is not None:
            return ChosenWidths(self._allocate(sensitivities, cost_model, budget))
        measure = self._target_latency().measure if self.goal.timed else self._target_latency().size
        return self._corrected(sensitivities, cost_model, budget, measure)._replace(before=measure(before.module))

    def carry_out(self, allocation: Allocation) -> None:
        """Cut, repair, and measure running statistics anew."""
        cut = remove_channels(self.module, self.groups, allocation.widths, self.importance_scores)
        if self._repair is not None:
            self._repair.repair(self.module, cut)
            recalibrate(self.module, self.data.train)

    def _sensitivities(self) -> Sensitivities:
        """Of every group that takes part; a group without any has no say in the matter."""
        goal, data = self.goal, self.data
        if goal.allocation == "uniform":
            return {}
        if goal.allocation == "global":
            absolute = goal.importance in _ABSOLUTE
            self.groups = [group for group in self.groups if group.kind != "block"]
            return {
                group.name: sensitivity_from_importance(group, self.importance_scores[group.name], absolute=absolute)
                for group in self.groups
            }
        if data.validation is None:
            raise InputError("allocation 'measured' needs validation cases; give a study with a val split, or uniform")
        curves = measure_sensitivity(
            self.module, self.groups, self.importance_scores, data.validation, self._repair, data.curves, data.progress
        )
        return {group.name: sensitivity_at_levels(group, curves[group.name]) for group in self.groups}

    def _allocate(self, sensitivities: Sensitivities, cost_model: CostModel, budget: float) -> Allocation:
        if self.goal.allocation == "uniform":
            return uniform(self.groups, self.importance_scores, cost_model, budget)
        allocation = knapsack(self.groups, sensitivities, cost_model, budget)
        if self.goal.search == "evolution":
            return evolve(self.groups, sensitivities, cost_model, budget, allocation)
        return allocation

    def _cost_model_and_budget(self, before: Before) -> tuple[CostModel, float]:
        goal, module, groups = self.goal, self.module, self.groups
        if goal.macs is not None:
            return macs_cost(count_macs(module, self.example), groups), goal.macs * before.macs
        target_latency = self._target_latency()
        if goal.size_mb is not None:
            return size_cost(module, groups, target_latency.size(module)), goal.size_mb * 1e6
        if goal.latency_ms is not None and goal.latency_ms <= target_latency.floor_ms:
            raise ModelError(
                f"latency {goal.latency_ms:g} ms is out of reach: on this target an empty graph takes "
                f"{target_latency.floor_ms:.3g} ms; ask for more than that"
            )
        budget = goal.latency_ms or target_latency.measure(before.module) / (goal.speedup or 1)
        return target_latency.cost_model(module, groups), budget

    def _corrected(
        self, sensitivities: Sensitivities, cost_model: CostModel, budget: float, measure: Callable[[nn.Module], float]
    ) -> ChosenWidths:
        """The widest choice that was measured within the budget.

        Raises:
            ModelError: whatever is chosen takes longer than that.
        """
        tried: list[ChosenWidths] = []
        requested = budget
        for _ in range(_CORRECTIONS):
            allocation = self._allocate(sensitivities, cost_model, requested)
            if not any(allocation.widths == chosen.allocation.widths for chosen in tried):
                tried.append(ChosenWidths(allocation, self._measured_with(allocation, measure)))
                described = f"predicted {allocation.cost:.4g}, measured {tried[-1].measured:.4g}, goal {budget:.4g}"
                self.data.progress(described)
            elif min(chosen.measured for chosen in tried) <= budget * (1 + _MEASURED):
                break  # nothing new comes of it
            if _CLOSE * budget <= tried[-1].measured <= budget * (1 + _MEASURED):
                break
            requested = _next_budget(requested, tried, budget)
        within = [chosen for chosen in tried if chosen.measured <= budget * (1 + _MEASURED)]
        if within:
            return max(within, key=lambda chosen: chosen.measured)
        least = min(chosen.measured for chosen in tried)
        raise self._out_of_reach(least, budget)

    def _measured_with(self, allocation: Allocation, measure: Callable[[nn.Module], float]) -> float:
        with temporarily(self.module):
            remove_channels(self.module, self.groups, allocation.widths, self.importance_scores)
            return measure(self.module)

    def _target_latency(self) -> LatencyMeter:
        if self.data.target_latency is None:
            raise InputError("a goal of time or size needs a target, e.g. openvino:cpu:int8")
        return self.data.target_latency

    def _check(self, cost_model: CostModel, budget: float, before: Before) -> None:
        taking_part = [u for u in self.groups if self.goal.allocation != "uniform" or u.kind in ("channels", "heads")]
        least = deepest(taking_part, cost_model)
        if least <= budget * (1 + _COUNTED):
            return
        if not taking_part:
            reasons = "; ".join(dict.fromkeys(f"{entry.name}: {entry.reason}" for entry in self.protected[:3]))
            raise ModelError(
                f"nothing in this network can be pruned ({reasons}); distil into a smaller named model instead"
            )
        raise self._out_of_reach(least if self.goal.macs is None else least / before.macs, budget)

    def _out_of_reach(self, least: float, budget: float) -> ModelError:
        """With what can be reached: ``least``, of the MACs the fraction."""
        return ModelError(
            f"{self._offer(least, budget)}; ask for no more than that, round more finely, or distil into a smaller "
            "named model"
        )

    def _offer(self, least: float, budget: float) -> str:
        goal = self.goal
        widths = f"with widths in multiples of {goal.round_to or goal.step(1)}"
        if goal.macs is not None:
            return f"macs {goal.macs} is out of reach: {widths} at least {_up(least)} of the MACs stay"
        if goal.size_mb is not None:
            return f"size {goal.size_mb:g} MB is out of reach: {widths} at least {_up(least / 1e6)} MB stay"
        if goal.speedup is not None:
            most = math.floor(goal.speedup * budget / least * 100) / 100
            return f"speedup {goal.speedup:g} is out of reach: {widths} about {most:g} can be reached"
        return f"latency {goal.latency_ms:g} ms is out of reach: {widths} about {_up(least)} ms can be reached"


def _next_budget(requested: float, tried: Sequence[ChosenWidths], budget: float) -> float:
    """What to ask the cost model for next: on the line through the last two choices, or in proportion to the last."""
    last = tried[-1]
    target = budget * (1 + _CLOSE) / 2
    after = requested * target / last.measured
    if len(tried) > 1:
        previous = tried[-2]
        rise, run = last.measured - previous.measured, last.allocation.cost - previous.allocation.cost
        if rise * run > 0:
            after = last.allocation.cost + (target - last.measured) * run / rise
    return min(max(after, requested / 2), requested * 2)


def all_channel_groups(
    module: nn.Module, example: Tensor, goal: PruningGoal
) -> tuple[list[ChannelGroup], list[Protected]]:
    """Everything that the goal lets shrink, and what stays as it is, with the reason."""
    attentions, sealed = find_attentions(module)
    heads, whole = head_groups(module, attentions, goal.step)
    linear, dense = linear_attention_groups(module, goal.step)
    channels, protected = find_channel_groups(module, example, attentions, sealed, goal.step)
    _forget_cached(module)
    groups, stuck = check_in_isolation(module, example, [*heads, *linear, *channels])
    left = [*whole, *dense, *protected, *stuck]
    if not goal.embedding:
        left += [Protected(u.name, "the width of tokens is to stay") for u in groups if u.kind == "embedding"]
        groups = [group for group in groups if group.kind != "embedding"]
    blocks = droppable_blocks(module, example) if goal.depth and goal.allocation == "measured" else ()
    return [*groups, *(ChannelGroup(name, 1, (1, 0), (), "block") for name in blocks)], left


def _forget_cached(module: nn.Module) -> None:
    """Some attentions keep their position bias between calls, after tracing with its graph; training empties it."""
    module.train()
    module.eval()


def _loss(goal: PruningGoal, data: PruningData) -> Loss:
    if goal.importance in NEEDS_CASES and data.loss is None:
        raise InputError(f"importance {goal.importance!r} needs a loss and training cases; or use 'magnitude'")
    return data.loss or (lambda logits, _: logits.sum())


def _up(value: float) -> float:
    return math.ceil(value * 1000) / 1000
