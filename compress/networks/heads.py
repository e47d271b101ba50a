"""A network's classifier: where it is, and how one begins that has not learned yet.

A new classifier on trained features begins at zero, so that the first answers are a coin's (loss log 2 of two labels).
timm draws some families' from a wide distribution (EfficientNet's of two labels from ±0.7), and the first steps then
undo random logits at the price of the features.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from medfm_compress.compress.networks.inputs import widths_of
from medfm_compress.compress.networks.monai_networks import head_of
from medfm_compress.compress.networks.smp_networks import ENCODER, HEAD
from medfm_compress.runtime.errors import ModelError

FUSION = "fusion."
"""Of a network of images and columns: what joins them and gives the logits."""


def classifier_names(module: nn.Module) -> tuple[str, ...]:
    """Prefixes, dot included, of the parameters of a network's classifier or classifiers; as timm states them.

    Of a network that answers for every pixel, the layer that gives the logits.
    """
    if hasattr(module, "segmentation_head"):
        return (HEAD,)
    if widths_of(module):
        return (FUSION,)
    if head := head_of(module):
        return (head,)
    published = getattr(module, "pretrained_cfg", None) or {}
    classifier = published.get("classifier") or ("head", "fc", "classifier")
    return tuple(f"{name}." for name in ((classifier,) if isinstance(classifier, str) else classifier))


def backbone_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that a file of weights usually brings: all but the classifier's, of U-Nets the encoder's.

    Those of a decoder are as new as the head where the encoder starts from a classifier's weights.
    """
    names = [name for name, _ in module.named_parameters()]
    if hasattr(module, "segmentation_head"):
        return tuple(name for name in names if name.startswith(ENCODER))
    heads = classifier_names(module)
    return tuple(name for name in names if not name.startswith(heads))


def begin_at_zero(module: nn.Module, names: Iterable[str]) -> None:
    """Set the last layer of every classifier that ``names`` (prefixes, dot included) call to zero, in place."""
    for parameter in _last_parameters(module, names):
        with torch.no_grad():
            parameter.zero_()


def is_at_zero(module: nn.Module) -> bool:
    """Whether the classifier is as `begin_at_zero` leaves it, so that the network gives every image one answer."""
    last = _last_parameters(module, classifier_names(module))
    return bool(last) and not any(parameter.any() for parameter in last)


def check_answers(module: nn.Module, name: str) -> None:
    """Raises ModelError where the classifier `is_at_zero`."""
    if is_at_zero(module):
        raise ModelError(
            f"the classifier of {name} is at zero: it was not trained, and gives every image the same answer; train it "
            "('finetune' with --epochs above 0), or give weights that have a classifier for these labels"
        )


def _last_parameters(module: nn.Module, names: Iterable[str]) -> list[nn.Parameter]:
    """Of the last layer of each of ``names``."""
    found: list[nn.Parameter] = []
    for name in names:
        inside = [layer for path, layer in module.named_modules() if f"{path}.".startswith(name)]
        layers = [layer for layer in inside if isinstance(layer, nn.Linear | nn.Conv2d)]
        found += layers[-1].parameters() if layers else ()
    return found
