r"""Fold BatchNorm into the layer before it, so that the weights that are trained are those that INT8 will hold.

    γ (W x + b − μ) / √(σ² + ε) + β = (s W) x + (s (b − μ) + β),   s = γ / √(σ² + ε)

The exporter does the same, so the scales a channel are those of s W (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877, section 3.2; here with frozen statistics). The network keeps its architecture: the
norm stays as an identity with a bias, its weight 1, mean 0 and variance 1 − ε, whose sum with ε is 1 to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medfm_compress.compress.qat.quantized_layers import Weighted, trace, weighted

_TOLERANCE = 1e-3  # of outputs before and after, relative to their largest


class Pair(NamedTuple):
    """A layer, and the norm that reads its result."""

    layer: Weighted
    norm_name: str
    norm: _BatchNorm


def fold_batch_norms(network: nn.Module, image: Tensor) -> tuple[str, ...]:
    """Fold in place; the names of the norms that were, none where folding would change what the network computes.

    Args:
        network: in eval mode.
        image: ``[1, channels, height, width]`` that shows which norm reads which layer.
    """
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    probe = torch.cat([image, torch.randn(image.shape, generator=torch.Generator().manual_seed(0))])
    with torch.no_grad():
        expected = network(probe)
        pairs = tuple(_pairs(network, image))
        for pair in pairs:
            _fold(pair)
        error = (network(probe) - expected).abs().max() / expected.abs().max().clamp(min=1e-6)
    if not error < _TOLERANCE:
        network.load_state_dict(before)
        return ()
    return tuple(pair.norm_name for pair in pairs)


def is_identity(norm: _BatchNorm) -> bool:
    """Whether a norm adds its bias and does nothing else: it was folded."""
    if norm.weight is None or norm.running_mean is None or norm.running_var is None:
        return False
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return bool((scale == 1).all() and (norm.running_mean == 0).all())


def _pairs(network: nn.Module, image: Tensor) -> Iterator[Pair]:
    """Norms that read a layer's result, both used once in a forward pass."""
    calls = trace(network, image)
    names = {module: name for name, module in network.named_modules()}
    layers = {layer for _, layer in weighted(network)}
    made = {call.made: call.module for call in calls if call.module in layers}
    modules = [call.module for call in calls]
    for call in calls:
        norm, layer = call.module, made.get(call.read)
        if not isinstance(norm, _BatchNorm) or not isinstance(layer, Weighted) or not _foldable(norm):
            continue
        if modules.count(norm) == modules.count(layer) == 1:
            yield Pair(layer, names[norm], norm)


def _foldable(norm: _BatchNorm) -> bool:
    return norm.affine and norm.running_var is not None


def _fold(pair: Pair) -> None:
    layer, norm = pair.layer, pair.norm
    assert norm.running_mean is not None and norm.running_var is not None  # noqa: S101 - `_foldable`
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.double()
    norm.bias.copy_((bias - norm.running_mean) * scale + norm.bias)
    layer.weight.copy_(layer.weight.double() * scale.reshape(-1, *(1,) * (layer.weight.ndim - 1)))
    if layer.bias is not None:
        layer.bias.zero_()
    norm.weight.fill_(1)
    norm.running_mean.zero_()
    norm.running_var.fill_(1 - norm.eps)
