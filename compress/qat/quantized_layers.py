"""The layers that are quantized, and which module reads what another one made or reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Weighted: TypeAlias = nn.Conv2d | nn.Linear
Place = tuple[int, int]
"""Where a tensor's numbers lie; views of the same numbers lie at the same place."""

# Subclasses that compute another weight first (standardised ones) are not among them.
_PLAIN = ("Conv2d", "Conv2dSame", "Linear")


class Call(NamedTuple):
    """A module's turn in a forward pass: where what it read lies, and what it made."""

    module: nn.Module
    read: Place
    made: Place


def weighted(network: nn.Module) -> Iterator[tuple[str, Weighted]]:
    """Name and module of every Conv2d and Linear that multiplies by its weight as it is stored."""
    for name, module in network.named_modules():
        if isinstance(module, Weighted) and type(module).__name__ in _PLAIN:
            yield name, module


def trace(network: nn.Module, image: Tensor) -> list[Call]:
    """The calls of norms and of modules without children that map one tensor to one, in order.

    Args:
        network: in eval mode.
        image: ``[1, channels, height, width]``.
    """
    kept: list[Tensor] = []  # so that no memory is used twice
    calls: list[Call] = []

    def note(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            kept.extend((inputs[0], output))
            calls.append(Call(module, _place(inputs[0]), _place(output)))

    leaves = [part for part in network.modules() if isinstance(part, _BatchNorm) or not list(part.children())]
    run_hooked([leaf.register_forward_hook(note) for leaf in leaves], lambda: network(image))
    return calls


def run_hooked(handles: Iterable[torch.utils.hooks.RemovableHandle], run: Callable[[], object]) -> None:
    """Run without gradients, then remove the hooks."""
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()


def _place(tensor: Tensor) -> Place:
    return tensor.data_ptr(), tensor.numel()
