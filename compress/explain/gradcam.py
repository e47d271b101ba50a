"""Grad-CAM: which places of the last feature map speak for a finding.

    α_k = mean_{ij} ∂s/∂A_kij,    h = Σ_k α_k A_k

A the last feature map with more than one place ([n, C, h, w]), s the finding's log-odds. Selvaraju et al., Grad-CAM
(ICCV 2017), by Captum. The map has the resolution of A, often 4×4 to 16×16.

The paper's ReLU over h is left out: where nothing speaks for the finding it empties the map, and then even a network
and its own copy have nothing to agree on. Negative values are places that speak against the finding, as in `occlusion`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from medfm_compress.runtime.errors import InputError, MissingDependency

Score = Callable[[torch.Tensor], torch.Tensor]


def grad_cam(module: nn.Module, images: torch.Tensor, score: Score) -> torch.Tensor:
    """Grad-CAM at the last feature map of ``module``; its parameters and their gradients are left alone.

    Args:
        module: in eval mode, on the device of ``images``.
        images: normalised ``[n, C, H, W]``, float32.
        score: ``[n]`` log-odds of logits ``[n, labels]``.

    Returns:
        float32 ``[n, h, w]``; negative where a place speaks against the finding.

    Raises:
        InputError: the module has no feature map ``[n, C, h, w]`` with more than one place.
        MissingDependency: Captum is not installed.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError:
        raise MissingDependency("Grad-CAM needs Captum: pip install 'medfm-compress[toolchain]'") from None
    layer = last_feature_map(module, images[:1])
    with torch.enable_grad():
        method = LayerGradCam(lambda values: score(module(values)), layer)
        maps = method.attribute(images.detach().clone().requires_grad_(), relu_attributions=False)
    if not isinstance(maps, torch.Tensor):
        raise InputError("the last feature map is a tuple of tensors; use --method occlusion")
    return maps.detach()[:, 0]


def last_feature_map(module: nn.Module, image: torch.Tensor) -> nn.Module:
    """The layer that is the last to give ``[1, C, h, w]`` with more than one place when ``image`` [1, C, H, W] is run.

    What is inside an attention layer is passed over: its ``[1, heads, tokens, tokens]`` only looks like a feature map.

    Raises:
        InputError: there is none, it is turned into tokens before the classifier, or it holds the channels last.
    """
    layers: list[tuple[nn.Module, torch.Size]] = []

    def note(layer: nn.Module, _: object, output: object) -> None:
        if isinstance(output, torch.Tensor) and output.ndim in (3, 4) and output.shape[2:].numel() > 1:
            layers.append((layer, output.shape))

    handles = [layer.register_forward_hook(note) for layer in _outside_attention(module)]
    try:
        with torch.no_grad():
            module(image)
    finally:
        for handle in handles:
            handle.remove()
    if not layers or len(layers[-1][1]) == 3:
        raise InputError("the network does not end in a feature map, which Grad-CAM needs; use --method occlusion")
    layer, shape = layers[-1]
    if shape[1] != shape[3] and shape[3] == getattr(module, "num_features", None):
        raise InputError("the network keeps its channels last, which Grad-CAM cannot read; use --method occlusion")
    return layer


def _outside_attention(module: nn.Module) -> list[nn.Module]:
    kept = [] if hasattr(module, "num_heads") else [module]
    for child in module.children() if kept else ():
        kept += _outside_attention(child)
    return kept
