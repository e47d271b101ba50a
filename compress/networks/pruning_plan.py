"""`PruningPlan`: how a pruned network differs from the named one, as JSON, so that no pickle is ever needed.

A plan holds shapes and numbers, not indices: which channels went is no longer visible in a pruned network, only how
many stayed. It makes a network smaller, drops blocks of it and merges its tokens, and can do nothing else. Building the
named architecture, applying the plan and loading the safetensors file gives the network back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import torch
from torch import nn

from medfm_compress.compress.networks.block_removal import drop_blocks
from medfm_compress.compress.networks.token_merging import set_merging
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.strict_json import convert

Value = int | float | tuple[int, ...]
Entry = TypeVar("Entry")


class PruningPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Differences from the unpruned architecture.

    Attributes:
        tensors: parameter or buffer → its new shape; only those that shrank.
        values: module → attribute → its new value (``out_channels``, ``num_heads``, ...); only those that changed.
        macs_before: MACs of one image before the first pruning.
        macs_after: MACs of one image now.
        round_to: widths are multiples of it.
        importance: how channels were chosen.
        dropped: blocks that an identity replaces (`depth`).
        merging: block → pairs of tokens that it merges (`tokens`).
    """

    tensors: dict[str, tuple[int, ...]]
    values: dict[str, dict[str, Value]]
    macs_before: int
    macs_after: int
    round_to: int
    importance: str
    dropped: tuple[str, ...] = ()
    merging: dict[str, int] = {}


@dataclass(frozen=True)
class Shapes:
    """What of a network a plan can change: every tensor's shape and every numeric attribute of every module."""

    tensors: dict[str, tuple[int, ...]]
    values: dict[str, dict[str, Value]]


def shapes_of(module: nn.Module) -> Shapes:
    """Snapshot of ``module``."""
    tensors = {name: tuple(tensor.shape) for name, tensor in _tensors(module)}
    values = {name: _numbers(part) for name, part in module.named_modules()}
    return Shapes(tensors, values)


def differences(before: Shapes, after: Shapes) -> tuple[dict[str, tuple[int, ...]], dict[str, dict[str, Value]]]:
    """Tensors and values of ``after`` that are not those of ``before``; what has gone with its block is in neither."""
    tensors = {name: shape for name, shape in after.tensors.items() if shape != before.tensors[name]}
    values = {
        name: changed
        for name, numbers in after.values.items()
        if (changed := {key: value for key, value in numbers.items() if value != before.values[name].get(key)})
    }
    return tensors, values


def merge_plans(first: PruningPlan | None, then: PruningPlan) -> PruningPlan:
    """One plan for a network that was pruned by ``first`` and again by ``then``."""
    if first is None:
        return then
    values = {name: dict(numbers) for name, numbers in first.values.items()}
    for name, numbers in then.values.items():
        values[name] = {**values.get(name, {}), **numbers}
    dropped = _outermost((*first.dropped, *then.dropped))
    return msgspec.structs.replace(
        then,
        tensors=_left({**first.tensors, **then.tensors}, dropped),
        values=_left(values, dropped),
        macs_before=first.macs_before,
        dropped=dropped,
        merging=_left({**first.merging, **then.merging}, dropped),
    )


def apply_pruning_plan(module: nn.Module, plan: Mapping[str, Any]) -> nn.Module:
    """:func:`apply_plan` for the JSON that an architecture carries; returns ``module``, changed in place."""
    apply_plan(module, convert(dict(plan), PruningPlan, source="pruning plan", error=ModelError))
    return module


def apply_plan(module: nn.Module, plan: PruningPlan) -> None:
    """Give a freshly built ``module`` the shapes of ``plan``, in place; its weights are then to be loaded.

    Raises:
        ModelError: the plan is not one for this architecture.
    """
    for name, shape in plan.tensors.items():
        _reshape(module, name, shape)
    for name, numbers in plan.values.items():
        _set_numbers(_submodule(module, name), name, numbers)
    try:
        if plan.merging:
            set_merging(module, plan.merging)
        drop_blocks(module, plan.dropped)
    except ModelError as exc:
        raise ModelError(f"the pruning plan is not one for this architecture: {exc}") from None


def _outermost(blocks: tuple[str, ...]) -> tuple[str, ...]:
    """``blocks``, each once, without those that lie inside another."""
    return tuple(name for name in dict.fromkeys(blocks) if not _inside(name, [b for b in blocks if b != name]))


def _left(entries: Mapping[str, Entry], dropped: tuple[str, ...]) -> dict[str, Entry]:
    """Those of ``entries`` whose tensor or module has not gone with a block."""
    return {name: entry for name, entry in entries.items() if not _inside(name, dropped)}


def _inside(name: str, blocks: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{block}.") for block in blocks)


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _numbers(part: nn.Module) -> dict[str, Value]:
    return {key: value for key, value in vars(part).items() if not key.startswith("_") and _is_number(value)}


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(type(entry) is int for entry in value)
    return type(value) in {int, float}


def _set_numbers(part: nn.Module, name: str, numbers: Mapping[str, Value]) -> None:
    allowed = _numbers(part)
    for key, value in numbers.items():
        if key not in allowed or type(allowed[key]) is not type(value):
            raise ModelError(f"the pruning plan sets {name}.{key} to {value!r}, which this architecture does not have")
        if not _fits(value, allowed[key]):
            raise ModelError(f"the pruning plan sets {name}.{key} to {value!r}; this architecture has {allowed[key]!r}")
        setattr(part, key, value)


def _fits(new: Value, old: Value) -> bool:
    """Whether a number can be that of a smaller layer: whole ones only shrink, the scale of attention may do either."""
    if isinstance(new, tuple) and isinstance(old, tuple):
        return len(new) == len(old) and all(_fits(*pair) for pair in zip(new, old, strict=True))
    if isinstance(new, int) and isinstance(old, int):
        return 0 < new <= old or new == old
    return math.isfinite(new) if isinstance(new, float) else False


def _submodule(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError:
        raise ModelError(f"the pruning plan names {name!r}, which this architecture does not have") from None


def _reshape(module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    owner_name, _, attribute = name.rpartition(".")
    owner = _submodule(module, owner_name)
    old = getattr(owner, attribute, None)
    if not isinstance(old, torch.Tensor):
        raise ModelError(f"the pruning plan shrinks {name!r}, which this architecture does not have")
    if len(shape) != old.ndim or not all(0 < new <= size for new, size in zip(shape, old.shape, strict=True)):
        raise ModelError(f"the pruning plan makes {name} {shape}, but this architecture has {tuple(old.shape)}")
    empty = torch.zeros(shape, dtype=old.dtype, device=old.device)
    setattr(owner, attribute, nn.Parameter(empty, old.requires_grad) if isinstance(old, nn.Parameter) else empty)
