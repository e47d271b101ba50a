"""Multiply–accumulate operations (MACs) of a network at one input, in all and layer by layer.

Counted from the operations that really run (``torch.utils.flop_counter``; 1 MAC = 2 FLOP): convolutions, matrix
products and attention, whoever calls them. Element-wise work and normalisation are not counted, as is usual.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medfm_compress.compress.networks import inputs


@dataclass(frozen=True)
class Macs:
    """MACs of one forward pass.

    Attributes:
        total: of the whole network.
        layers: module name → what that module does itself, its children not counted; only modules that do any.
    """

    total: int
    layers: dict[str, int]


def count_macs(module: nn.Module, example: torch.Tensor) -> Macs:
    """Count the MACs of ``module`` at ``example``, float32 ``[n, channels, height, width]``, in evaluation mode."""
    training, learning = module.training, [p for p in module.parameters() if p.requires_grad]
    module.eval()
    module.requires_grad_(False)  # the counter hooks what requires one, which some networks do not survive
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(inputs.example(module, example))
    finally:
        module.train(training)
        for parameter in learning:
            parameter.requires_grad_(True)
    inclusive = {
        name.partition(".")[2]: sum(operations.values()) // 2
        for name, operations in counter.get_flop_counts().items()
        if "." in name
    }
    return Macs(total=counter.get_total_flops() // 2, layers=_own(inclusive))


def _own(inclusive: dict[str, int]) -> dict[str, int]:
    own = dict(inclusive)
    for name, macs in inclusive.items():
        parent = name.rpartition(".")[0]
        while parent and parent not in inclusive:
            parent = parent.rpartition(".")[0]
        if parent:
            own[parent] -= macs
    return {name: macs for name, macs in own.items() if macs > 0}
