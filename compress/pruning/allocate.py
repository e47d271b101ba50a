r"""Which unit gives up how much, so that the network fits a budget and loses least.

    minimise  sum over units u of  d_u(w_u)      subject to   cost(w) <= budget

``d_u(w)`` is the damage of unit u alone at width w, ``cost`` a `Price`. Three ways to share the loss out:

- uniform: the same fraction everywhere. Steps of all units (multiples of 16 or 32, whole heads) stand in one order, by
  the fraction at which plain rounding would take them, and are taken until the budget is met; so it is met closely even
  where one step would halve every layer at once. Of steps that fall due together, those that lose least go first. Only
  channels and heads take part: neither the width of the tokens nor whole blocks.
- knapsack: the step with the least damage per cost saved, again and again, and at the end whatever still fits is
  given back. A step may pass over widths, since damage curves are not convex.
- evolution: random changes of a few units at a time, brought back to the budget by the knapsack's rule; what is not
  worse is kept. It begins with the better of the other two, so that it cannot end worse, and takes longer.

Cf. Frantar & Alistarh 2022, "SPDY: Accurate Pruning with Speedup Guarantees"; Shen et al. 2022, "HALP".
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import torch

from medfm_compress.compress.pruning.channel_groups import Unit
from medfm_compress.compress.pruning.cost_model import Forecast, Price

Search = Literal["knapsack", "evolution"]
SEARCHES: tuple[Search, ...] = get_args(Search)
Damage = Mapping[str, Mapping[int, float]]
"""Unit name → width → damage, at least 0; 0 at full width."""
_GENERATIONS = 400
_CHANGES = 3  # units that one random change meets, at most
_SLACK = 1e-9


class Allocation(NamedTuple):
    """Width by unit name, the cost predicted for them, and the damage; ``cost`` is above a budget out of reach."""

    widths: dict[str, int]
    cost: float
    damage: float = 0.0


class _Step(NamedTuple):
    """The fraction removed at which a step of the uniform order falls due, and the importance it costs."""

    due: float
    loss: float
    unit: str
    width: int


def uniform(units: Sequence[Unit], scores: Mapping[str, torch.Tensor], price: Price, budget: float) -> Allocation:
    """The same fraction of every unit.

    Args:
        units: what may shrink.
        scores: importance by unit name, float ``[width]``; decides between steps that fall due together.
        price: of the network.
        budget: in its unit.
    """
    forecast = Forecast(units, price)
    for step in sorted(_uniform_steps(units, scores)):
        if forecast.total <= budget * (1 + _SLACK):
            break
        forecast.set(step.unit, step.width)
    return Allocation(forecast.widths, forecast.total)


def _uniform_steps(units: Sequence[Unit], scores: Mapping[str, torch.Tensor]) -> list[_Step]:
    steps = []
    for unit in units:
        if unit.kind not in ("channels", "heads"):
            continue
        lost = lost_importance(scores[unit.name])
        for wide, narrow in zip(unit.levels, unit.levels[1:], strict=False):
            due = 1 - (wide + narrow) / 2 / unit.width
            steps.append(_Step(due, lost[unit.width - narrow], unit.name, narrow))
    return steps


def lost_importance(scores: torch.Tensor) -> list[float]:
    """Share of a unit's importance that is lost with its k least important channels, k = 0 … width."""
    order = torch.sort(scores.double()).values
    lost = torch.cumsum(order, 0) / order.sum().clamp_min(torch.finfo(order.dtype).tiny)
    return [0.0, *lost.tolist()]


def deepest(units: Sequence[Unit], price: Price) -> float:
    """The least cost that can be reached: every unit as narrow as it may be, every block dropped."""
    forecast = Forecast(units, price)
    for unit in units:
        forecast.set(unit.name, unit.levels[-1])
    return forecast.total


def knapsack(units: Sequence[Unit], damage: Damage, price: Price, budget: float) -> Allocation:
    """The steps with the least damage per cost saved.

    Args:
        units: what may shrink.
        damage: of every level of every unit.
        price: of the network.
        budget: in its unit.
    """
    state = _State(units, damage, price)
    state.shrink(budget)
    state.fill(budget)
    return state.allocation()


def evolve(
    units: Sequence[Unit], damage: Damage, price: Price, budget: float, start: Allocation, seed: int = 0
) -> Allocation:
    """Random changes of `Allocation` ``start``, at most as costly as the budget, never more damaging."""
    dice = random.Random(seed)  # noqa: S311 -- no secret
    state = _State(units, damage, price)
    for name, width in start.widths.items():
        state.forecast.set(name, width)
    best = state.allocation()
    for _ in range(_GENERATIONS):
        for unit in dice.sample(list(units), min(len(units), dice.randint(1, _CHANGES))):
            state.set(unit.name, dice.choice(unit.levels))
        state.shrink(budget)
        state.fill(budget)
        found = state.allocation()
        if found.cost <= budget * (1 + _SLACK) and found.damage <= best.damage:
            best = found
        else:
            state.restore(best.widths)
    return best


@dataclass
class _State:
    """Widths on the way to a budget, with the best next step of every unit kept until a neighbour changes."""

    units: Sequence[Unit]
    damage: Damage
    price: Price
    forecast: Forecast = field(init=False)
    _best: dict[str, tuple[float, int] | None] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.forecast = Forecast(self.units, self.price)
        self._levels = {unit.name: unit.levels for unit in self.units}

    def allocation(self) -> Allocation:
        widths = dict(self.forecast.widths)
        return Allocation(widths, self.forecast.total, sum(self.damage[name][width] for name, width in widths.items()))

    def set(self, unit: str, width: int) -> None:
        self.forecast.set(unit, width)
        for name in self.forecast.neighbours[unit]:
            self._best.pop(name, None)

    def restore(self, widths: Mapping[str, int]) -> None:
        for name, width in widths.items():
            if self.forecast.widths[name] != width:
                self.set(name, width)

    def shrink(self, budget: float) -> None:
        """Take the cheapest steps until the budget is met or nothing is left to take."""
        while self.forecast.total > budget * (1 + _SLACK):
            steps = ((step, unit) for unit in self._levels if (step := self._next(unit)) is not None)
            found = min(steps, key=lambda entry: entry[0][0], default=None)
            if found is None:
                return
            (_, width), unit = found
            self.set(unit, width)

    def fill(self, budget: float) -> None:
        """Give back what still fits, the greatest relief first."""
        while True:
            room = budget - self.forecast.total
            fitting = [
                (self.damage[unit][now] - self.damage[unit][width], unit, width)
                for unit, levels in self._levels.items()
                if (now := self.forecast.widths[unit]) != levels[0]
                for width in levels
                if width > now and self.damage[unit][width] <= self.damage[unit][now]
                if self.forecast.change(unit, width) <= room
            ]
            if not fitting:
                return
            _, unit, width = max(fitting)
            self.set(unit, width)

    def _next(self, unit: str) -> tuple[float, int] | None:
        """Least damage per cost saved of all narrower widths, and that width; None where none saves anything."""
        if unit not in self._best:
            now, curve = self.forecast.widths[unit], self.damage[unit]
            ratios = (
                ((curve[width] - curve[now]) / saved, width)
                for width in self._levels[unit]
                if width < now and (saved := -self.forecast.change(unit, width)) > 0
            )
            self._best[unit] = min(ratios, default=None)
        return self._best[unit]
