"""Fake quantization: in training, weights and inputs of layers are rounded to the very values that INT8 will have.

An input x in [l, h], l ≤ 0 ≤ h, unsigned bytes (see `int8.qdq`; S is the scale, Z the zero point):

    S = (h − l) / 255,   Z = round(−l / S),   x̂ = S · (clip(round(x / S) + Z, 0, 255) − Z)

A weight w of output channel c, symmetric (see `int8.weights`): S_c = max|w| / 127 (63 where ``reduced``), ŵ = S_c · q,
q the integers of `rounding`. Rounding has no useful gradient, so the straight-through estimator takes its place (Bengio
et al. 2013, https://arxiv.org/abs/1308.3432), with the gradient of what is clipped 0 (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877):

    ∂x̂/∂x = 1 where 0 ≤ round(x / S) + Z ≤ 255, else 0;   ∂ŵ/∂w = 1: no weight is clipped

S_c follows the weights; l and h are fixed by `ranges` before training. What is trained is float32 throughout: bf16 has
8 bits of precision, and would round the 256 levels once more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medfm_compress.compress.qat.sum_preserving_rounding import round_keeping_sums
from medfm_compress.compress.quantization.qdq import affine
from medfm_compress.compress.quantization.weights import LIMIT, REDUCED_LIMIT

LEVELS = 255
_TINY = float(torch.finfo(torch.float32).tiny)


class InputQuantizer(nn.Module):
    """Rounds an activation to 256 levels between ``low`` and ``high``.

    Attributes:
        low: float32 scalar, <= 0.
        high: float32 scalar, >= 0.
        scale: float32 scalar, of the two.
        zero: likewise, a whole number, 0 to 255.
    """

    low: Tensor
    high: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, low: float, high: float) -> None:
        """Raises InputError where the range is not finite."""
        super().__init__()
        low, high = float(np.float32(low)), float(np.float32(high))  # what is kept must give this very scale
        scale, zero = affine(low, high)
        for name, value in (("low", low), ("high", high), ("scale", scale), ("zero", zero)):
            self.register_buffer(name, torch.tensor(float(value)))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` of any shape, as float32."""
        with torch.autocast(x.device.type, enabled=False):
            rounded: Tensor = _Clipped.apply(x.float(), self.scale, self.zero)
        return rounded


class WeightQuantizer(nn.Module):
    """A parametrization: the weight ``[out, ...]`` as it will be in INT8, one scale an output channel."""

    def __init__(self, *, reduced: bool = False) -> None:
        super().__init__()
        self.limit = REDUCED_LIMIT if reduced else LIMIT

    def forward(self, weight: Tensor) -> Tensor:
        """Rounded ``weight``, float32."""
        rounded: Tensor = _Rounded.apply(weight, self.limit)
        return rounded


def integer_weight(weight: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Integers (as float32) of the weight's shape, and scales ``[out]``: the torch twin of `quantize_weight`."""
    scales = weight.abs().flatten(1).amax(1).double() / limit
    usable = scales > _TINY
    spare = scales[usable].min() if usable.any() else scales.new_ones(())
    stored = torch.where(usable, scales, spare).float()
    steps = weight / _by_channel(stored, weight)
    if weight.ndim > 2:
        return round_keeping_sums(steps.flatten(2), limit).reshape(weight.shape), stored
    return torch.round(steps).clamp(-limit, limit), stored


def _by_channel(scales: Tensor, weight: Tensor) -> Tensor:
    return scales.reshape(-1, *(1,) * (weight.ndim - 1))


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        levels = torch.round(x / scale) + zero
        kept = levels.clamp(0, LEVELS)
        ctx.save_for_backward(kept == levels)
        return (kept - zero) * scale

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, limit: int) -> Tensor:
        integers, scales = integer_weight(weight, limit)
        return integers * _by_channel(scales, weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
