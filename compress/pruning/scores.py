r"""How much a channel matters: one score a channel of a `Unit`; the least are removed.

With ``W_k`` the weights that go when channel k goes, over all members of the unit, and ``L`` the loss on training
cases:

- magnitude: ``I_k = sum w^2`` over W_k (Fang et al. 2023, DepGraph, eq. 4)
- taylor:    ``I_k = sum over members | sum of w * dL/dw |``, the first-order change of the loss when the member's share
  of the channel is set to zero (Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning", eq. 8)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

from medfm_compress.compress.pruning.units import Unit
from medfm_compress.runtime.errors import InputError

Importance = Literal["magnitude", "taylor"]
Batch = tuple[torch.Tensor, torch.Tensor]
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def accumulate_gradients(module: nn.Module, batches: Iterable[Batch], loss: Loss) -> int:
    """Fill ``.grad`` of every parameter with the sum over ``batches``, in evaluation mode; returns how many cases.

    Args:
        module: its gradients are overwritten.
        batches: images float32 ``[n, channels, height, width]`` and targets as ``loss`` takes them.
        loss: mean loss of logits ``[n, labels]`` against targets, a scalar.

    Raises:
        InputError: there are no cases.
    """
    module.eval()
    module.zero_grad(set_to_none=True)
    device = next(module.parameters()).device
    cases = 0
    for images, targets in batches:
        loss(module(images.to(device)), targets.to(device)).backward()  # type: ignore[no-untyped-call]
        cases += len(images)
    if not cases:
        raise InputError("Taylor importance needs training cases, and there are none; use importance 'magnitude'")
    return cases


@torch.no_grad()
def scores(unit: Unit, importance: Importance) -> torch.Tensor:
    """Scores of a unit's channels, float64 ``[width]``, >= 0, on the CPU."""
    total = torch.zeros(unit.width, dtype=torch.float64)
    for member in unit.members:
        share = torch.zeros(member.size, dtype=torch.float64)
        for weight, dim in member.weights:
            share += _along(_element_scores(weight, importance), dim)
        if importance == "taylor":
            share = share.abs()
        total.index_add_(0, torch.tensor(member.roots), share[torch.tensor(member.indices)])
    return total


def _element_scores(weight: nn.Parameter, importance: Importance) -> torch.Tensor:
    if importance == "magnitude":
        return weight.double().square().cpu()
    return torch.zeros_like(weight).double().cpu() if weight.grad is None else (weight * weight.grad).double().cpu()


def _along(values: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum over every dimension but ``dim``."""
    return values.transpose(0, dim).flatten(1).sum(1) if values.ndim > 1 else values
