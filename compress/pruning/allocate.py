r"""Which group gives up how much, so that the network fits a budget and loses least.

    minimise  sum over groups u of  d_u(w_u)      subject to   cost(w) <= budget

``d_u(w)`` is the sensitivity of group u alone at width w, ``cost`` a `CostModel`. Three ways to share the loss out:

- uniform: the same fraction everywhere. Steps of all groups (multiples of 16 or 32, whole heads) stand in one order, by
  the fraction at which plain rounding would take them, and are taken until the budget is met; so it is met closely even
  where one step would halve every layer at once. Of steps that fall due together, those that lose least go first. Only
  channels and heads take part: neither the width of the tokens nor whole blocks.
- knapsack: the step with the least sensitivity per cost saved, again and again, and at the end whatever still fits is
  given back. A step may pass over widths, since sensitivity curves are not convex.
- evolution: random changes of a few groups at a time, brought back to the budget by the knapsack's rule; what is not
  worse is kept. It begins with the better of the other two, so that it cannot end worse, and takes longer.

Cf. Frantar & Alistarh 2022, "SPDY: Accurate Pruning with Speedup Guarantees"; Shen et al. 2022, "HALP".
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from medfm_compress.compress.pruning.channel_groups import ChannelGroup
from medfm_compress.compress.pruning.cost_model import CostModel, CostTracker

Sensitivities = Mapping[str, Mapping[int, float]]
"""Unit name → width → sensitivity, at least 0; 0 at full width."""
_GENERATIONS = 400
_CHANGES = 3  # groups that one random change meets, at most
_SLACK = 1e-9


class Allocation(NamedTuple):
    """Width by group name, the cost predicted for them, and what is lost; ``cost`` is above a budget out of reach."""

    widths: dict[str, int]
    cost: float
    sensitivities: float = 0.0


class _Step(NamedTuple):
    """The fraction removed at which a step of the uniform order falls due, and the importance it costs."""

    due: float
    loss: float
    group: str
    width: int


def uniform(
    groups: Sequence[ChannelGroup], importance_scores: Mapping[str, torch.Tensor], cost_model: CostModel, budget: float
) -> Allocation:
    """The same fraction of every group.

    Args:
        groups: what may shrink.
        importance_scores: importance by group name, float ``[width]``; decides between steps that fall due together.
        cost_model: of the network.
        budget: in its unit.
    """
    tracker = CostTracker(groups, cost_model)
    for step in sorted(_uniform_steps(groups, importance_scores)):
        if tracker.total <= budget * (1 + _SLACK):
            break
        tracker.set(step.group, step.width)
    return Allocation(tracker.widths, tracker.total)


def _uniform_steps(groups: Sequence[ChannelGroup], importance_scores: Mapping[str, torch.Tensor]) -> list[_Step]:
    steps = []
    for group in groups:
        if group.kind not in ("channels", "heads"):
            continue
        lost = lost_importance(importance_scores[group.name])
        for wide, narrow in zip(group.levels, group.levels[1:], strict=False):
            due = 1 - (wide + narrow) / 2 / group.width
            steps.append(_Step(due, lost[group.width - narrow], group.name, narrow))
    return steps


def lost_importance(importance_scores: torch.Tensor) -> list[float]:
    """Share of a group's importance that is lost with its k least important channels, k = 0 … width."""
    order = torch.sort(importance_scores.double()).values
    lost = torch.cumsum(order, 0) / order.sum().clamp_min(torch.finfo(order.dtype).tiny)
    return [0.0, *lost.tolist()]


def deepest(groups: Sequence[ChannelGroup], cost_model: CostModel) -> float:
    """The least cost that can be reached: every group as narrow as it may be, every block dropped."""
    tracker = CostTracker(groups, cost_model)
    for group in groups:
        tracker.set(group.name, group.levels[-1])
    return tracker.total


def knapsack(
    groups: Sequence[ChannelGroup], sensitivities: Sensitivities, cost_model: CostModel, budget: float
) -> Allocation:
    """The steps that lose least per cost saved.

    Args:
        groups: what may shrink.
        sensitivities: of every level of every group.
        cost_model: of the network.
        budget: in its unit.
    """
    state = _State(groups, sensitivities, cost_model)
    state.shrink(budget)
    state.fill(budget)
    return state.allocation()


def evolve(
    groups: Sequence[ChannelGroup],
    sensitivities: Sensitivities,
    cost_model: CostModel,
    budget: float,
    start: Allocation,
    seed: int = 0,
) -> Allocation:
    """Random changes of `Allocation` ``start``, at most as costly as the budget, never more damaging."""
    dice = random.Random(seed)  # noqa: S311 -- no secret
    state = _State(groups, sensitivities, cost_model)
    for name, width in start.widths.items():
        state.tracker.set(name, width)
    best = state.allocation()
    for _ in range(_GENERATIONS):
        for group in dice.sample(list(groups), min(len(groups), dice.randint(1, _CHANGES))):
            state.set(group.name, dice.choice(group.levels))
        state.shrink(budget)
        state.fill(budget)
        candidate = state.allocation()
        if candidate.cost <= budget * (1 + _SLACK) and candidate.sensitivities <= best.sensitivities:
            best = candidate
        else:
            state.restore(best.widths)
    return best


@dataclass
class _State:
    """Widths on the way to a budget, with the best next step of every group kept until a neighbour changes."""

    groups: Sequence[ChannelGroup]
    sensitivities: Sensitivities
    cost_model: CostModel
    tracker: CostTracker = field(init=False)
    _best: dict[str, tuple[float, int] | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.tracker = CostTracker(self.groups, self.cost_model)
        self._levels = {group.name: group.levels for group in self.groups}

    def allocation(self) -> Allocation:
        widths = dict(self.tracker.widths)
        return Allocation(
            widths, self.tracker.total, sum(self.sensitivities[name][width] for name, width in widths.items())
        )

    def set(self, group: str, width: int) -> None:
        self.tracker.set(group, width)
        for name in self.tracker.neighbours[group]:
            self._best.pop(name, None)

    def restore(self, widths: Mapping[str, int]) -> None:
        for name, width in widths.items():
            if self.tracker.widths[name] != width:
                self.set(name, width)

    def shrink(self, budget: float) -> None:
        """Take the cheapest steps until the budget is met or nothing is left to take."""
        while self.tracker.total > budget * (1 + _SLACK):
            steps = ((step, group) for group in self._levels if (step := self._next(group)) is not None)
            candidate = min(steps, key=lambda entry: entry[0][0], default=None)
            if candidate is None:
                return
            (_, width), group = candidate
            self.set(group, width)

    def fill(self, budget: float) -> None:
        """Give back what still fits, the greatest relief first."""
        while True:
            room = budget - self.tracker.total
            fitting = [
                (self.sensitivities[group][now] - self.sensitivities[group][width], group, width)
                for group, levels in self._levels.items()
                if (now := self.tracker.widths[group]) != levels[0]
                for width in levels
                if width > now and self.sensitivities[group][width] <= self.sensitivities[group][now]
                if self.tracker.change(group, width) <= room
            ]
            if not fitting:
                return
            _, group, width = max(fitting)
            self.set(group, width)

    def _next(self, group: str) -> tuple[float, int] | None:
        """Least sensitivity per cost saved of all narrower widths, and that width; None where none saves anything."""
        if group not in self._best:
            now, curve = self.tracker.widths[group], self.sensitivities[group]
            ratios = (
                ((curve[width] - curve[now]) / saved, width)
                for width in self._levels[group]
                if width < now and (saved := -self.tracker.change(group, width)) > 0
            )
            self._best[group] = min(ratios, default=None)
        return self._best[group]
