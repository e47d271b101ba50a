"""A float network as one that computes with the values of INT8, for training; and back to plain weights.

The architecture stays: BatchNorm is folded (see `fold`), every Conv2d and Linear gets a quantizer of its input as a
submodule and one of its weight as a parametrization, all state is in parameters and buffers, so a copy, an average or
a checkpoint of the network is quantized likewise. Products of activations, softmax and GELU stay in float.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from medfm_compress.compress.qat.batch_norm_folding import fold_batch_norms, is_identity
from medfm_compress.compress.qat.fake_quant import InputQuantizer, WeightQuantizer
from medfm_compress.compress.qat.input_ranges import candidates, input_statistics
from medfm_compress.compress.qat.quantized_layers import Call, Weighted, trace, weighted
from medfm_compress.compress.quantization.range_estimators import Range
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.golden_cases import relative_logit_error

_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_INPUT = "input_quantizer"
_ORIGINAL = "parametrizations.weight.original"


def fake_quantized(module: nn.Module, images: Tensor, *, reduced: bool = False) -> nn.Module:
    """A copy of a float network that computes with the values that INT8 will have; ``module`` is left as it is.

    Args:
        module: maps ``[n, channels, height, width]`` to logits.
        images: normalised training images that the ranges of activations are estimated on.
        reduced: weights of 7 bits, which CPUs without VNNI need.

    Raises:
        InputError: nothing in it can be quantized, or an activation is not finite.
    """
    folded = nn.Module.eval(copy.deepcopy(module)).float()
    fold_batch_norms(folded, images[:1])
    calls = trace(folded, images[:1])
    through = {call.module for call in calls}
    layers = {name: layer for name, layer in weighted(folded) if layer in through}
    if not layers:
        kinds = sorted({type(call.module).__name__ for call in calls})
        raise InputError(
            f"no layer of the student can be trained for INT8: it has {', '.join(kinds)}, and Conv2d or Linear are "
            "quantized; leave --qat out, or take another --student"
        )
    ranges = candidates(input_statistics(folded, layers, images))
    expected = _logits(folded, images)
    networks = [with_ranges(folded, images[:1], own, reduced=reduced) for own in ranges.values()]
    errors = [relative_logit_error(_logits(network, images), expected) for network in networks]
    return networks[errors.index(min(errors))]


def with_ranges(module: nn.Module, image: Tensor, ranges: Mapping[str, Range], *, reduced: bool = False) -> nn.Module:
    """A copy of a network whose norms are folded, with known ranges: what a trained student was trained as.

    Args:
        module: with plain weights, in eval mode.
        image: ``[1, channels, height, width]``, normalised.
        ranges: name of a layer → range of its input.
        reduced: weights of 7 bits.
    """
    names = {part: name for name, part in module.named_modules()}
    layers = {name: layer for name, layer in weighted(module) if name in ranges}
    pools = _pools(trace(module, image), layers)
    wider = {names[pool]: ranges[layer] for pool, layer in pools.items()}
    return _with_quantizers(module, {**ranges, **wider}, reduced=reduced)


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of the float network that a fake-quantized one was made from, with the weights of now."""
    state = network.state_dict()
    return {name.replace(_ORIGINAL, "weight"): state[name] for name in state if f".{_INPUT}." not in f".{name}"}


def trained_ranges(network: nn.Module) -> dict[str, Range]:
    """Name of each quantized layer → the range of its input, to the bit as it was trained with."""
    layers = ((name, module) for name, module in network.named_modules() if isinstance(module, Weighted))
    quantizers = {name: getattr(layer, _INPUT, None) for name, layer in layers}
    return {name: Range(float(q.low), float(q.high)) for name, q in quantizers.items() if q is not None}


def _pools(calls: list[Call], layers: Mapping[str, Weighted]) -> dict[nn.Module, str]:
    """Pooling modules that work on rounded numbers → name of a layer whose input has the range of theirs.

    The exported graphs round a value once for all its readers, sums excepted: for the pool of a shortcut too. They
    round it before a MaxPool, so that it moves bytes; then whatever reads its result gets them.
    """
    names: dict[nn.Module, str] = {layer: name for name, layer in layers.items()}
    read = {call.read: names[call.module] for call in calls if call.module in names}
    readers = {call.module: read.get(call.read) for call in calls if isinstance(call.module, _POOLS)}
    readers |= {
        call.module: read[call.made] for call in calls if isinstance(call.module, nn.MaxPool2d) and call.made in read
    }
    return {pool: name for pool, name in readers.items() if name is not None}


def _logits(network: nn.Module, images: Tensor) -> NDArray[np.float32]:
    """One row an answer: an image, or a pixel of one."""
    with torch.no_grad():
        logits = torch.cat([network(part) for part in torch.split(images, 16)])
    rows: NDArray[np.float32] = logits.movedim(1, -1).flatten(0, -2).numpy()
    return rows


def _with_quantizers(folded: nn.Module, ranges: Mapping[str, Range], *, reduced: bool) -> nn.Module:
    network = copy.deepcopy(folded)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(_stay_frozen)
            if is_identity(module):
                module.weight.requires_grad_(False)
    for name, (low, high) in ranges.items():
        layer = network.get_submodule(name)
        layer.add_module(_INPUT, InputQuantizer(low, high))
        layer.register_forward_pre_hook(_round_input)
        if isinstance(layer, Weighted):
            parametrize.register_parametrization(layer, "weight", WeightQuantizer(reduced=reduced))
    return network


# Hooks are functions of a module's own state, so that they hold in every copy of the network.


def _round_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    rounded: Tensor = layer.get_submodule(_INPUT)(inputs[0])
    return rounded


def _stay_frozen(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """The training loop puts every module into training mode; folded statistics must not move."""
    norm.training = False
