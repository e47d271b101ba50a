r"""Whole residual blocks that can be left out, and leaving them out.

    y = act(x + f(x))   →   y = x

x what enters the block, f its branch, act nothing or a ReLU. A trained residual network keeps most of its answer when
one such block goes (Veit et al. 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks"), and
time falls with every operator that goes, also with those whose MACs are next to nothing.

A block counts as residual by its behaviour: with every parameter of it at zero, f(x) = 0 and it must give back x, or
ReLU(x). So a shortcut that holds a layer (the first block of most ResNet stages) or a scale of its own is not dropped.
In a ResNet the ReLU comes after the sum; what enters the next block has passed one already, and ReLU(x) = x there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from medfm_compress.compress.networks import inputs
from medfm_compress.compress.networks.token_merging import unmerge_tokens
from medfm_compress.runtime.errors import ModelError

# Of the largest value that went in: float32 sums over a block's few residual additions.
_IDENTITY = 1e-4
_FEWEST_LAYERS = 2  # a lone convolution with a shortcut is a layer, not a block


class Dropped(nn.Module):
    """In the place of a block that is gone: gives back what comes in; holds nothing."""

    def forward(self, features: torch.Tensor, *_more: object, **_options: object) -> torch.Tensor:
        """``features`` as they are; what else a block of the network is called with is not read."""
        return features


class _Call(NamedTuple):
    """How a block was called: shape of its first argument and of its result, and the other arguments."""

    inputs: torch.Size
    outputs: torch.Size | None
    more: tuple[Any, ...]
    options: dict[str, Any]


def droppable_blocks(module: nn.Module, example: torch.Tensor) -> tuple[str, ...]:
    """Names of the blocks that an identity can replace, in the order in which the network holds them.

    Blocks are entries of an ``nn.Sequential`` or ``nn.ModuleList`` with at least two weighted layers, called once. None
    lies inside another: a stage that is nothing but a chain of such blocks stands back for them. A block that merges
    tokens counts without that; where it goes, its tokens stay.

    Args:
        module: is not changed.
        example: float32 ``[1, channels, height, width]``, on any device; only its shape matters.
    """
    probe = copy.deepcopy(module).eval()
    unmerge_tokens(probe)
    device = next((parameter.device for parameter in probe.parameters()), example.device)
    images = torch.rand(example.shape, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.no_grad():
        calls = _calls(probe, _candidates(probe), images)
        residual = [name for name, call in calls.items() if _is_residual(probe.get_submodule(name), call, device)]
        blocks = [name for name in residual if not any(other.startswith(f"{name}.") for other in residual)]
        return tuple(_replaceable(module, blocks, images))


def drop_blocks(module: nn.Module, names: Iterable[str]) -> None:
    """Put an identity in the place of blocks, in place; their weights are gone from ``state_dict``.

    Raises:
        ModelError: a name that is no block of ``module``, or whose block has gone already.
    """
    requested = tuple(names)
    blocks = set(_candidates(module))
    for name in requested:
        if name not in blocks or requested.count(name) > 1:
            raise ModelError(f"{name!r} cannot be dropped: {_no_block(module, name, requested)}")
    for name in requested:
        if any(name.startswith(f"{other}.") for other in requested):
            raise ModelError(f"{name!r} cannot be dropped: it lies in a block that is dropped too; name the outer one")
    for name in requested:
        module.set_submodule(name, Dropped())


def dropped_blocks(module: nn.Module) -> tuple[str, ...]:
    """Names of the blocks of ``module`` that have gone."""
    return tuple(name for name, part in module.named_modules() if isinstance(part, Dropped))


def _no_block(module: nn.Module, name: str, requested: tuple[str, ...]) -> str:
    if requested.count(name) > 1:
        return "it is named twice; name each block once"
    if name in dropped_blocks(module):
        return "it has been dropped already"
    return "this architecture has no such block; name one that droppable_blocks gives"


def _candidates(module: nn.Module) -> list[str]:
    """Entries of containers that hold at least two weighted layers."""
    return [
        f"{name}.{entry}" if name else entry
        for name, part in module.named_modules()
        if isinstance(part, (nn.Sequential, nn.ModuleList))
        for entry, child in part.named_children()
        if _weighted_layers(child) >= _FEWEST_LAYERS
    ]


def _weighted_layers(part: nn.Module) -> int:
    return sum(next(layer.parameters(recurse=False), None) is not None for layer in part.modules())


def _calls(module: nn.Module, names: Iterable[str], images: torch.Tensor) -> dict[str, _Call]:
    """How each of ``names`` is called in one forward pass; those called once, with a tensor first."""
    calls_by_name: dict[str, list[_Call]] = {name: [] for name in names}
    hooks = [
        module.get_submodule(name).register_forward_hook(_recorder(calls), with_kwargs=True)
        for name, calls in calls_by_name.items()
    ]
    module(inputs.example(module, images))
    for hook in hooks:
        hook.remove()
    once = {name: calls[0] for name, calls in calls_by_name.items() if len(calls) == 1}
    return {name: call for name, call in once.items() if call.inputs == call.outputs}


def _recorder(calls: list[_Call]) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], None]:
    def record(_: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any], result: Any) -> None:
        first = arguments[0] if arguments else None
        inputs = first.shape if isinstance(first, torch.Tensor) and first.is_floating_point() else torch.Size()
        outputs = result.shape if isinstance(result, torch.Tensor) else None
        calls.append(_Call(inputs, outputs, arguments[1:], options))

    return record


def _is_residual(block: nn.Module, call: _Call, device: torch.device) -> bool:
    """Whether ``block``, whose parameters are set to zero, gives back what goes in, or its ReLU."""
    for parameter in block.parameters():
        parameter.zero_()
    features = torch.randn(call.inputs, generator=torch.Generator().manual_seed(0)).to(device)
    result = block(features.clone(), *call.more, **call.options)
    near = _IDENTITY * float(features.abs().max())
    return any(float((result - kept).abs().max()) <= near for kept in (features, features.relu()))


def _replaceable(module: nn.Module, blocks: list[str], images: torch.Tensor) -> list[str]:
    """Those of ``blocks`` without which the network runs; all at once where that goes, else tried one by one."""
    if _runs_without(module, blocks, images):
        return blocks
    return [name for name in blocks if _runs_without(module, [name], images)]


def _runs_without(module: nn.Module, names: Iterable[str], images: torch.Tensor) -> bool:
    trial = copy.deepcopy(module).eval()
    drop_blocks(trial, names)
    try:
        trial(inputs.example(trial, images))
    except (RuntimeError, ValueError, TypeError, AttributeError, AssertionError, IndexError):
        return False
    return True
