"""Structured pruning: remove channels, MLP widths and attention heads until a fraction of the MACs is left.

    units (what must go together)  →  scores (what matters least)  →  widths (how many stay)  →  cut  →  plan

The result is an ordinary network with smaller layers: it trains, distils, exports and quantizes like any other. It has
lost accuracy; distillation from the original is what brings it back (`distill`).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import torch
from torch import nn
from torch.nn import functional

from medfm_compress.compress.model import Model
from medfm_compress.compress.pruning.heads import find_attentions
from medfm_compress.compress.pruning.macs import count_macs
from medfm_compress.compress.pruning.plan import PruningPlan, differences, merge_plans, shapes_of
from medfm_compress.compress.pruning.scores import Batch, Importance, Loss, accumulate_gradients, scores
from medfm_compress.compress.pruning.units import Member, Protected, Side, Unit, find_units, head_units
from medfm_compress.compress.pruning.widths import choose_widths
from medfm_compress.runtime.codec import convert
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.task import Task

# Predicted and counted MACs agree but for rounding; more than this much over the target means a step is still missing.
MACS_TOLERANCE = 1e-6


@dataclass(frozen=True)
class PruningGoal:
    """What to reach.

    Attributes:
        macs: fraction of the MACs to keep, above 0 and below 1.
        round_to: widths become multiples of it; processors are fast at 16 and faster at 32.
        importance: ``magnitude`` needs no data, ``taylor`` needs training cases.
    """

    macs: float
    round_to: int = 16
    importance: Importance = "magnitude"

    def __post_init__(self) -> None:
        if not 0 < self.macs < 1:
            raise InputError(f"macs is {self.macs}; the fraction to keep must be above 0 and below 1, e.g. 0.5")
        if not 1 <= self.round_to <= 256:
            raise InputError(f"round_to is {self.round_to}; it must be 1 to 256, usually 16 or 32")
        if self.importance not in {"magnitude", "taylor"}:
            raise InputError(f"importance is {self.importance!r}; it must be 'magnitude' or 'taylor'")


@dataclass(frozen=True)
class WidthChange:
    """What became of one unit."""

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class PrunedModule:
    """A pruned network and the record of what was done.

    Attributes:
        module: the smaller network, in evaluation mode.
        plan: how to build it again from the unpruned architecture.
        parameters_before: of the network that was given.
        parameters_after: of the smaller one.
        widths: every unit that became narrower.
        protected: what was left alone, and why.
    """

    module: nn.Module
    plan: PruningPlan
    parameters_before: int
    parameters_after: int
    widths: tuple[WidthChange, ...]
    protected: tuple[Protected, ...]


@dataclass(frozen=True)
class Pruned:
    """A pruned model and the record of what was done; counts are for one image, and of the model that was given.

    Attributes:
        model: the smaller model; its architecture carries the plan, so it saves and loads like any other.
        macs_before: multiply-accumulates of the model that was given.
        macs_after: of the smaller one.
        parameters_before: of the model that was given.
        parameters_after: of the smaller one.
        widths: every unit that became narrower.
        protected: what was left alone, and why.
    """

    model: Model
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    widths: tuple[WidthChange, ...]
    protected: tuple[Protected, ...]


def prune(
    model: Model,
    *,
    macs: float,
    round_to: int = 16,
    importance: Importance = "magnitude",
    batches: Iterable[Batch] = (),
) -> Pruned:
    """Prune ``model`` to a fraction of its MACs; it needs recovery by `distill` afterwards.

    Args:
        model: is not changed.
        macs: fraction to keep, above 0 and below 1.
        round_to: widths become multiples of it.
        importance: ``magnitude``, or ``taylor`` with ``batches``.
        batches: normalised images float32 ``[n, channels, height, width]`` and targets int64 as a study gives them,
            ``[n, 1]`` or ``[n, labels]``; training cases only.

    Raises:
        InputError: a value outside its range, or ``taylor`` without cases.
        ModelError: the fraction is out of reach, or the network does not run at smaller widths.
    """
    goal = PruningGoal(macs, round_to, importance)
    small = prune_module(model.module, torch.zeros(model.spec.shape), goal, batches, _loss(model.task))
    earlier = model.architecture.pruning
    first = convert(earlier, PruningPlan, source="pruning plan", error=ModelError) if earlier else None
    plan = merge_plans(first, small.plan)
    before, after = small.plan.macs_before, small.plan.macs_after
    step = f"prune: {after / before:.3f} of the MACs kept, widths in multiples of {round_to}, {importance}"
    pruned = dataclasses.replace(
        model,
        name=f"{model.name}-pruned",
        module=small.module,
        architecture=msgspec.structs.replace(model.architecture, pruning=msgspec.to_builtins(plan)),
        provenance=msgspec.structs.replace(model.provenance, steps=(*model.provenance.steps, step)),
    )
    return Pruned(pruned, before, after, small.parameters_before, small.parameters_after, small.widths, small.protected)


def _loss(task: Task) -> Loss:
    """Mean cross-entropy of a study's targets, binary where findings are independent."""
    if task.kind == "multilabel":
        return lambda logits, targets: functional.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
    return lambda logits, targets: functional.cross_entropy(logits, targets.flatten())


def prune_module(
    module: nn.Module, example: torch.Tensor, goal: PruningGoal, batches: Iterable[Batch] = (), loss: Loss | None = None
) -> PrunedModule:
    """Prune a copy of ``module``.

    Args:
        module: is not changed; frozen parameters count like any other.
        example: float32 ``[1, channels, height, width]``, on any device; only its shape matters.
        goal: what to reach.
        batches: training cases for ``taylor``: images and targets.
        loss: for ``taylor``: mean loss of logits and targets.

    Raises:
        InputError: ``taylor`` without cases or loss.
        ModelError: the fraction is out of reach, or the network does not run at smaller widths.
    """
    small = copy.deepcopy(module).eval().requires_grad_(True)
    example = torch.rand(example.shape, device=next(small.parameters()).device)
    before, macs_before = shapes_of(small), count_macs(small, example)
    if goal.importance == "taylor":
        if loss is None:
            raise InputError("Taylor importance needs a loss; give one or use importance 'magnitude'")
        accumulate_gradients(small, batches, loss)
    units, protected = _all_units(small, example, goal.round_to)
    importance = {unit.name: scores(unit, goal.importance) for unit in units}
    widths, predicted = choose_widths(units, importance, macs_before, goal.macs * macs_before.total)
    if predicted > goal.macs * macs_before.total * (1 + MACS_TOLERANCE):
        raise _out_of_reach(goal, predicted / macs_before.total, units, protected)
    small.zero_grad(set_to_none=True)
    cut_units(units, widths, importance)
    macs_after = _run(small, example)
    tensors, values = differences(before, shapes_of(small))
    plan = PruningPlan(
        tensors=tensors,
        values=values,
        macs_before=macs_before.total,
        macs_after=macs_after,
        round_to=goal.round_to,
        importance=goal.importance,
    )
    changes = (WidthChange(unit.name, unit.width, widths[unit.name]) for unit in units)
    return PrunedModule(
        module=small,
        plan=plan,
        parameters_before=_parameters(module),
        parameters_after=_parameters(small),
        widths=tuple(change for change in changes if change.after < change.before),
        protected=tuple(protected),
    )


def _all_units(module: nn.Module, example: torch.Tensor, round_to: int) -> tuple[list[Unit], list[Protected]]:
    attentions, sealed = find_attentions(module)
    heads, whole = head_units(module, attentions, round_to)
    channels, protected = find_units(module, example, attentions, sealed, round_to)
    return [*heads, *channels], [*whole, *protected]


def cut_units(units: Sequence[Unit], widths: Mapping[str, int], importance: Mapping[str, torch.Tensor]) -> None:
    """Cut units down to ``widths``, in place, least important first.

    Every layer is cut once: two units may meet in one layer, and positions count in its original width.
    """
    gone: dict[tuple[str, Side], set[int]] = defaultdict(set)
    members: dict[tuple[str, Side], Member] = {}
    for unit in units:
        order = torch.argsort(importance[unit.name], stable=True)
        roots = set(order[: unit.width - widths[unit.name]].tolist())
        for member in unit.members:
            key = (member.layer, member.side)
            members[key] = member
            gone[key].update(i for i, root in zip(member.indices, member.roots, strict=True) if root in roots)
    for key, positions in gone.items():
        if positions:
            members[key].remove(sorted(positions))


def _run(module: nn.Module, example: torch.Tensor) -> int:
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


def _out_of_reach(goal: PruningGoal, least: float, units: Sequence[Unit], protected: Sequence[Protected]) -> ModelError:
    if not units:
        reasons = "; ".join(dict.fromkeys(f"{entry.name}: {entry.reason}" for entry in protected[:3]))
        return ModelError(
            f"nothing in this network can be pruned ({reasons}); distil into a smaller named model instead"
        )
    return ModelError(
        f"macs {goal.macs} is out of reach: with widths in multiples of {goal.round_to} at least "
        f"{math.ceil(least * 1000) / 1000} of the MACs stay; ask for more than that, "
        "round more finely, or distil into a smaller named model"
    )


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
