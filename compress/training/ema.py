r"""Exponential moving average of the weights (Polyak & Juditsky 1992): :math:`\bar w \leftarrow d \bar w + (1-d) w`.

The decay :math:`d` rises over the first steps, so that the random start is soon forgotten.
"""

from __future__ import annotations

import torch
from torch import nn


def decay_at(step: int, decay: float) -> float:
    """The decay of one step: at most ``decay``, and less at the beginning."""
    return min(decay, (1 + step) / (10 + step))


class ExponentialMovingAverage:
    """Moves ``average`` towards ``module``, two networks of one architecture, in place."""

    def __init__(self, average: nn.Module, module: nn.Module) -> None:
        pairs = list(zip(average.state_dict().values(), module.state_dict().values(), strict=True))
        self._means = [mean for mean, _ in pairs if mean.is_floating_point()]
        self._values = [value for mean, value in pairs if mean.is_floating_point()]
        self._counters = [(mean, value) for mean, value in pairs if not mean.is_floating_point()]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """One step; integer buffers are copied."""
        torch._foreach_lerp_(self._means, self._values, 1 - decay)
        for mean, value in self._counters:
            mean.copy_(value)
