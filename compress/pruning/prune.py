"""Structured pruning: remove channels, MLP widths, heads, token widths and blocks until a goal is met.

    groups (what must go together)  →  scores (what matters least in each)  →  sensitivity (what each group costs)
        →  allocation (which gives up how much, at what cost model)  →  cut  →  repair  →  plan

The result is an ordinary network with smaller layers: it trains, distils, exports and quantizes like any other. It has
lost accuracy; distillation from the original is what brings it back (`schedule`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.fusion.network import FusionNetwork
from medfm_compress.compress.networks.macs import count_macs
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.networks.pruning_plan import PruningPlan, differences, merge_plans, shapes_of
from medfm_compress.compress.networks.token_merging import merge_tokens
from medfm_compress.compress.pruning.channel_groups import Kind, Protected
from medfm_compress.compress.pruning.goal import PruningGoal
from medfm_compress.compress.pruning.kinds import pruning_rules
from medfm_compress.compress.pruning.sensitivity import SensitivityPoints
from medfm_compress.compress.pruning.width_search import NO_DATA, Before, PruningData, WidthSearch
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.strict_json import convert


@dataclass(frozen=True)
class WidthChange:
    """What became of one group."""

    name: str
    before: int
    after: int
    kind: Kind = "channels"


@dataclass(frozen=True)
class PrunedModule:
    """A pruned network and the record of what was done.

    Attributes:
        module: the smaller network, in evaluation mode.
        plan: how to build it again from the unpruned architecture.
        parameters_before: of the network that was given.
        parameters_after: of the smaller one.
        widths: every group that became narrower; blocks of width 0 are gone.
        protected: what was left alone, and why.
        before: cost of the network that was given, in MACs, bytes or ms, as the goal wants.
        predicted: what the cost model said of the smaller one.
        measured: what it turned out to be.
        curves: measured sensitivity, empty where none was measured.
        groups: name → kind and width, of all groups.
    """

    module: nn.Module
    plan: PruningPlan
    parameters_before: int
    parameters_after: int
    widths: tuple[WidthChange, ...]
    protected: tuple[Protected, ...]
    before: float = 0.0
    predicted: float = 0.0
    measured: float = 0.0
    curves: SensitivityPoints = field(default_factory=dict)
    groups: Mapping[str, tuple[Kind, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pruned:
    """A pruned model and the record of what was done; counts are for one image, and of the model that was given.

    Attributes:
        model: the smaller model; its architecture carries the plan, so it saves and loads like any other.
        macs_before: multiply-accumulates of the model that was given.
        macs_after: of the smaller one.
        parameters_before: of the model that was given.
        parameters_after: of the smaller one.
        details: of the network.
    """

    model: Model
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    details: PrunedModule

    @property
    def widths(self) -> tuple[WidthChange, ...]:
        """Every group that became narrower."""
        return self.details.widths

    @property
    def protected(self) -> tuple[Protected, ...]:
        """What was left alone, and why."""
        return self.details.protected


def prune(model: Model, goal: PruningGoal, data: PruningData = NO_DATA) -> Pruned:
    """Prune ``model``; it needs recovery by distillation afterwards.

    Args:
        model: is not changed.
        goal: what to reach.
        data: cases and target, as far as the goal needs them.

    Raises:
        InputError: a goal that needs cases or a target that are not given.
        ModelError: the goal is out of reach, or the network does not run at smaller widths.
    """
    goal = dataclasses.replace(goal, narrow_step=pruning_rules(model.task).narrow_step)
    small = prune_module(model.module, torch.zeros(model.spec.shape), goal, data)
    earlier = model.architecture.pruning
    first = convert(earlier, PruningPlan, source="pruning plan", error=ModelError) if earlier else None
    plan = merge_plans(first, small.plan)
    before, after = small.plan.macs_before, small.plan.macs_after
    name = model.name if model.name.endswith("-pruned") else f"{model.name}-pruned"
    pruned = dataclasses.replace(
        model,
        name=name,
        module=small.module,
        architecture=msgspec.structs.replace(model.architecture, pruning=msgspec.to_builtins(plan)),
        provenance=msgspec.structs.replace(model.provenance, steps=(*model.provenance.steps, _describe(small, goal))),
    )
    return Pruned(pruned, before, after, small.parameters_before, small.parameters_after, small)


def restate(small: nn.Module, whole: nn.Module) -> None:
    """Tell ``small`` how wide its features are now, where timm keeps it as a number, in place."""
    if isinstance(small, FusionNetwork) and isinstance(whole, FusionNetwork):
        _restate(small.encoder, whole.embedding, small.embedding)
    else:
        _restate(small, _head_width(whole), _head_width(small))


def _restate(small: nn.Module, before: int, after: int) -> None:
    for name in ("num_features", "head_hidden_size", "embed_dim"):
        if before and after and getattr(small, name, None) == before:
            setattr(small, name, after)


def _head_width(module: nn.Module) -> int:
    head = module.get_classifier() if hasattr(module, "get_classifier") else None  # type: ignore[operator]
    return int(getattr(head, "in_features", 0))


def _describe(small: PrunedModule, goal: PruningGoal) -> str:
    kept = small.plan.macs_after / small.plan.macs_before
    finest = "" if goal.narrow_step == 16 else f"{goal.narrow_step}, "
    rounding = f"multiples of {goal.round_to}" if goal.round_to else f"multiples of {finest}16 or 32"
    parts = [
        f"prune: {kept:.3f} of the MACs kept, widths in {rounding}, {goal.importance}, {goal.allocation} allocation"
    ]
    if small.plan.dropped:
        parts.append(f"{len(small.plan.dropped)} blocks dropped")
    if goal.merge_tokens:
        parts.append(f"{goal.merge_tokens} tokens merged a block")
    return ", ".join(parts)


def prune_module(module: nn.Module, example: Tensor, goal: PruningGoal, data: PruningData = NO_DATA) -> PrunedModule:
    """Prune a copy of ``module``.

    Args:
        module: is not changed; frozen parameters count like any other.
        example: float32 ``[1, channels, height, width]``, on any device; only its shape matters.
        goal: what to reach.
        data: cases and target, as far as the goal needs them.

    Raises:
        InputError: a goal that needs cases or a target that are not given.
        ModelError: the goal is out of reach, or the network does not run at smaller widths.
    """
    small = copy.deepcopy(module).eval().requires_grad_(True)
    example = torch.rand(example.shape, device=next(small.parameters()).device)
    before, macs_before = shapes_of(small), count_macs(small, example)
    merging = merge_tokens(small, goal.merge_tokens) if goal.merge_tokens else {}
    search_state = WidthSearch(small, example, goal, data)
    chosen = search_state.search(Before(module, macs_before.total))
    search_state.carry_out(chosen.allocation)
    restate(small, module)
    macs_after = proven(small, example)
    tensors, values = differences(before, shapes_of(small))
    changes = [
        WidthChange(group.name, group.width, chosen.allocation.widths[group.name], group.kind)
        for group in search_state.groups
        if chosen.allocation.widths[group.name] < group.width
    ]
    plan = PruningPlan(
        tensors=tensors,
        values=values,
        macs_before=macs_before.total,
        macs_after=macs_after,
        round_to=goal.round_to or goal.step(1),
        importance=goal.importance,
        dropped=tuple(change.name for change in changes if change.kind == "block"),
        merging=merging,
    )
    return PrunedModule(
        module=small,
        plan=plan,
        parameters_before=_parameters(module),
        parameters_after=_parameters(small),
        widths=tuple(changes),
        protected=tuple(search_state.protected),
        before=chosen.before or macs_before.total,
        predicted=chosen.allocation.cost,
        measured=chosen.measured or macs_after,
        curves=dict(data.curves),
        groups={group.name: (group.kind, group.width) for group in search_state.groups},
    )


def proven(module: nn.Module, example: Tensor) -> int:
    """MACs of the pruned network, which proves that it runs."""
    try:
        return count_macs(module, example).total
    except (RuntimeError, ValueError, AssertionError) as exc:
        kinds = sorted(
            {type(part).__name__ for part in module.modules() if not type(part).__module__.startswith("torch.")}
        )
        raise ModelError(
            f"this network does not run at smaller widths ({exc}): of its layers {', '.join(kinds)} some are not "
            "understood; distil into a smaller named model instead"
        ) from exc


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
