"""Choose the width of every unit so that a goal is met; on the target's own clock where the goal is time.

A price predicts, and what it predicts is then made and measured. Where the two differ, the budget is corrected by their
ratio and the choice made again, so that the goal holds for what is measured and not for what was hoped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from medfm_compress.compress.networks.attention_layers import find_attentions
from medfm_compress.compress.networks.block_removal import droppable_blocks
from medfm_compress.compress.networks.macs import count_macs
from medfm_compress.compress.pruning.allocate import Allocation, Damage, deepest, evolve, knapsack, uniform
from medfm_compress.compress.pruning.apply import cut_units, undone
from medfm_compress.compress.pruning.channel_groups import Protected, Unit, find_units, head_units
from medfm_compress.compress.pruning.cost_model import Price, macs_price, size_price
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.importance import NEEDS_CASES, Batch, Loss, gather, scores
from medfm_compress.compress.pruning.isolation_check import tried_alone
from medfm_compress.compress.pruning.linear_attention import linear_attention_units
from medfm_compress.compress.pruning.reconstruction import Reconstruction, recalibrate
from medfm_compress.compress.pruning.sensitivity import (
    Progress,
    Question,
    Trial,
    damage_of,
    guessed_damage,
    measure_damage,
)
from medfm_compress.runtime.errors import InputError, ModelError

_COUNTED = 1e-6  # predicted and counted MACs agree but for rounding
_MEASURED = 0.01  # two measurements of one network differ by as much
_CLOSE = 0.95  # of the budget: near enough
_CORRECTIONS = 8
_ABSOLUTE = frozenset({"taylor", "hessian"})  # their scores estimate the loss itself


class Clock(Protocol):
    """The target: what networks cost there. See `clock`."""

    def price(self, module: nn.Module, units: Sequence[Unit]) -> Price:
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


def _silent(_: str) -> None:
    pass


@dataclass(frozen=True)
class Material:
    """What a network is pruned by.

    Attributes:
        train: batches of training cases, for importance, repair and running statistics.
        loss: mean loss of logits and targets, for importance.
        question: validation cases, for measured damage; None where there are none.
        clock: the target; needed for goals of time and size.
        curves: damage that is known already; filled as it is measured.
        progress: receives one line at a time.
    """

    train: Sequence[Batch] = ()
    loss: Loss | None = None
    question: Question | None = None
    clock: Clock | None = None
    curves: MutableMapping[str, tuple[Trial, ...]] = field(default_factory=dict)
    progress: Progress = _silent


NOTHING = Material()


class Before(NamedTuple):
    """The network that was given, and its MACs."""

    module: nn.Module
    macs: int


class Chosen(NamedTuple):
    """Widths, and what they turned out to cost, and the whole before; 0 where the goal is MACs, counted later."""

    allocation: Allocation
    measured: float = 0.0
    before: float = 0.0


class Chooser:
    """A copy of the network on its way to the goal."""

    def __init__(self, module: nn.Module, example: Tensor, goal: PruningGoal, material: Material) -> None:
        """Find and score all units of ``module``, which is cut in place by `carry_out`."""
        self.module, self.example, self.goal, self.material = module, example, goal, material
        self.units, self.protected = all_units(module, example, goal)
        wide = [unit for unit in self.units if unit.kind != "block"]
        evidence = gather(module, wide, goal.importance, material.train, _loss(goal, material))
        self.scores = {unit.name: scores(unit, evidence) for unit in wide}
        self._repair = Reconstruction(module, wide, material.train) if goal.repair and material.train else None

    def choose(self, before: Before) -> Chosen:
        """Widths that meet the goal.

        Raises:
            InputError: a goal that needs cases or a target that are not given.
            ModelError: the goal is out of reach.
        """
        price, budget = self._price_and_budget(before)
        self._check(price, budget, before)
        damage = self._damage()
        if self.goal.macs is not None:
            return Chosen(self._allocate(damage, price, budget))
        measure = self._clock().measure if self.goal.timed else self._clock().size
        return self._corrected(damage, price, budget, measure)._replace(before=measure(before.module))

    def carry_out(self, allocation: Allocation) -> None:
        """Cut, repair, and measure running statistics anew."""
        cut = cut_units(self.module, self.units, allocation.widths, self.scores)
        if self._repair is not None:
            self._repair.repair(self.module, cut)
            recalibrate(self.module, self.material.train)

    def _damage(self) -> Damage:
        """Of every unit that takes part; a unit without any has no say in the matter."""
        goal, material = self.goal, self.material
        if goal.allocation == "uniform":
            return {}
        if goal.allocation == "global":
            absolute = goal.importance in _ABSOLUTE
            self.units = [unit for unit in self.units if unit.kind != "block"]
            return {unit.name: guessed_damage(unit, self.scores[unit.name], absolute=absolute) for unit in self.units}
        if material.question is None:
            raise InputError("allocation 'measured' needs validation cases; give a study with a val split, or uniform")
        curves = measure_damage(
            self.module, self.units, self.scores, material.question, self._repair, material.curves, material.progress
        )
        return {unit.name: damage_of(unit, curves[unit.name]) for unit in self.units}

    def _allocate(self, damage: Damage, price: Price, budget: float) -> Allocation:
        if self.goal.allocation == "uniform":
            return uniform(self.units, self.scores, price, budget)
        found = knapsack(self.units, damage, price, budget)
        return evolve(self.units, damage, price, budget, found) if self.goal.search == "evolution" else found

    def _price_and_budget(self, before: Before) -> tuple[Price, float]:
        goal, module, units = self.goal, self.module, self.units
        if goal.macs is not None:
            return macs_price(count_macs(module, self.example), units), goal.macs * before.macs
        clock = self._clock()
        if goal.size_mb is not None:
            return size_price(module, units, clock.size(module)), goal.size_mb * 1e6
        if goal.latency_ms is not None and goal.latency_ms <= clock.floor_ms:
            raise ModelError(
                f"latency {goal.latency_ms:g} ms is out of reach: on this target an empty graph takes "
                f"{clock.floor_ms:.3g} ms; ask for more than that"
            )
        budget = goal.latency_ms or clock.measure(before.module) / (goal.speedup or 1)
        return clock.price(module, units), budget

    def _corrected(self, damage: Damage, price: Price, budget: float, measure: Callable[[nn.Module], float]) -> Chosen:
        """The widest choice that was measured within the budget.

        Raises:
            ModelError: whatever is chosen takes longer than that.
        """
        tried: list[Chosen] = []
        asked = budget
        for _ in range(_CORRECTIONS):
            allocation = self._allocate(damage, price, asked)
            if not any(allocation.widths == chosen.allocation.widths for chosen in tried):
                tried.append(Chosen(allocation, self._tried(allocation, measure)))
                told = f"predicted {allocation.cost:.4g}, measured {tried[-1].measured:.4g}, goal {budget:.4g}"
                self.material.progress(told)
            elif min(chosen.measured for chosen in tried) <= budget * (1 + _MEASURED):
                break  # nothing new comes of it
            if _CLOSE * budget <= tried[-1].measured <= budget * (1 + _MEASURED):
                break
            asked = _next_budget(asked, tried, budget)
        within = [chosen for chosen in tried if chosen.measured <= budget * (1 + _MEASURED)]
        if within:
            return max(within, key=lambda chosen: chosen.measured)
        least = min(chosen.measured for chosen in tried)
        raise self._out_of_reach(least, budget)

    def _tried(self, allocation: Allocation, measure: Callable[[nn.Module], float]) -> float:
        with undone(self.module):
            cut_units(self.module, self.units, allocation.widths, self.scores)
            return measure(self.module)

    def _clock(self) -> Clock:
        if self.material.clock is None:
            raise InputError("a goal of time or size needs a target, e.g. openvino:cpu:int8")
        return self.material.clock

    def _check(self, price: Price, budget: float, before: Before) -> None:
        taking_part = [u for u in self.units if self.goal.allocation != "uniform" or u.kind in ("channels", "heads")]
        least = deepest(taking_part, price)
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


def _next_budget(asked: float, tried: Sequence[Chosen], budget: float) -> float:
    """What to ask the price for next: along the line through the last two choices, or in proportion to the last."""
    last = tried[-1]
    target = budget * (1 + _CLOSE) / 2
    after = asked * target / last.measured
    if len(tried) > 1:
        previous = tried[-2]
        rise, run = last.measured - previous.measured, last.allocation.cost - previous.allocation.cost
        if rise * run > 0:
            after = last.allocation.cost + (target - last.measured) * run / rise
    return min(max(after, asked / 2), asked * 2)


def all_units(module: nn.Module, example: Tensor, goal: PruningGoal) -> tuple[list[Unit], list[Protected]]:
    """Everything that the goal lets shrink, and what stays as it is, with the reason."""
    attentions, sealed = find_attentions(module)
    heads, whole = head_units(module, attentions, goal.step)
    linear, dense = linear_attention_units(module, goal.step)
    channels, protected = find_units(module, example, attentions, sealed, goal.step)
    _forget_cached(module)
    units, stuck = tried_alone(module, example, [*heads, *linear, *channels])
    left = [*whole, *dense, *protected, *stuck]
    if not goal.embedding:
        left += [Protected(u.name, "the width of tokens is to stay") for u in units if u.kind == "embedding"]
        units = [unit for unit in units if unit.kind != "embedding"]
    blocks = droppable_blocks(module, example) if goal.depth and goal.allocation == "measured" else ()
    return [*units, *(Unit(name, 1, (1, 0), (), "block") for name in blocks)], left


def _forget_cached(module: nn.Module) -> None:
    """Some attentions keep their position bias between calls, after tracing with its graph; training empties it."""
    module.train()
    module.eval()


def _loss(goal: PruningGoal, material: Material) -> Loss:
    if goal.importance in NEEDS_CASES and material.loss is None:
        raise InputError(f"importance {goal.importance!r} needs a loss and training cases; or use 'magnitude'")
    return material.loss or (lambda logits, _: logits.sum())


def _up(value: float) -> float:
    return math.ceil(value * 1000) / 1000
