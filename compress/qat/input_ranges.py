"""The range of every layer's input, estimated before training as post-training quantization does it, then fixed.

Candidates are `int8.ranges`' extremes (``minmax``) and least squared error (``mse``), over training cases without
augmentation, as the device will see them; the one with which the network answers more like its float self is taken.
Fixed ranges, because a network that starts from its float self hardly moves its activations, learns to live with what
is clipped, and because layers that read one tensor then agree on its range, as they must in the exported graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from medfm_compress.compress.qat.quantized_layers import run_hooked
from medfm_compress.compress.quantization.activation_statistics import RunningStatistics, TensorStatistics
from medfm_compress.compress.quantization.range_estimators import Range, estimate_ranges
from medfm_compress.runtime.errors import InputError

ESTIMATORS = ("minmax", "mse")


def input_statistics(
    network: nn.Module, layers: Mapping[str, nn.Module], images: Tensor
) -> dict[str, TensorStatistics]:
    """What enters each layer, by its name.

    Args:
        network: in eval mode.
        layers: modules of it that a forward pass goes through.
        images: normalised ``[n, channels, height, width]``, run one at a time.

    Raises:
        InputError: an input that is NaN or infinite; the layer is named.
    """
    running = {name: RunningStatistics(None) for name in layers}
    names = {layer: name for name, layer in layers.items()}
    readers: set[str] = set()  # of the image itself
    image = images[:1]

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        name = names[module]
        if not running[name].add(inputs[0].detach().float().cpu().numpy()):
            raise InputError(f"the input of layer {name!r} is NaN or infinite; check the weights before it")
        if inputs[0].data_ptr() == image.data_ptr():
            readers.add(name)

    def run() -> None:
        nonlocal image
        for image in torch.split(images, 1):
            network(image)

    run_hooked([layer.register_forward_pre_hook(note) for layer in layers.values()], run)
    ranges = {name: tensor.result() for name, tensor in running.items()}
    # What an image saturates at is part of its contents: there the extremes hold for every estimator.
    return {name: replace(tensor, counts=None) if name in readers else tensor for name, tensor in ranges.items()}


def candidates(statistics: Mapping[str, TensorStatistics]) -> dict[str, dict[str, Range]]:
    """Estimator → layer's name → range."""
    return {estimator: estimate_ranges(statistics, estimator) for estimator in ESTIMATORS}
