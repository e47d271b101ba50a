"""`PruningPlan`: how a pruned network differs from the named one, as JSON, so that no pickle is ever needed.

A plan holds shapes and numbers, not indices: which channels went is no longer visible in a pruned network, only how
many stayed. Building the named architecture, applying the plan and loading the safetensors file gives the network back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import nn

from medfm_compress.runtime.codec import convert
from medfm_compress.runtime.errors import ModelError

Value = int | float | tuple[int, ...]


class PruningPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Differences from the unpruned architecture.

    Attributes:
        tensors: parameter or buffer → its new shape; only those that shrank.
        values: module → attribute → its new value (``out_channels``, ``num_heads``, ...); only those that changed.
        macs_before: MACs of one image before the first pruning.
        macs_after: MACs of one image now.
        round_to: widths are multiples of it.
        importance: how channels were chosen.
    """

    tensors: dict[str, tuple[int, ...]]
    values: dict[str, dict[str, Value]]
    macs_before: int
    macs_after: int
    round_to: int
    importance: str


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
    """Tensors and values of ``after`` that are not those of ``before``."""
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
    return msgspec.structs.replace(
        then, tensors={**first.tensors, **then.tensors}, values=values, macs_before=first.macs_before
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
        part = _submodule(module, name)
        allowed = _numbers(part)
        for key, value in numbers.items():
            if key not in allowed or type(allowed[key]) is not type(value):
                raise ModelError(
                    f"the pruning plan sets {name}.{key} to {value!r}, which this architecture does not have"
                )
            setattr(part, key, value)


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]


def _numbers(part: nn.Module) -> dict[str, Value]:
    return {key: value for key, value in vars(part).items() if not key.startswith("_") and _is_number(value)}


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(type(entry) is int for entry in value)
    return type(value) in {int, float}


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
