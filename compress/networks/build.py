"""Build a `Model` from a timm name for a study: input size, colour, weights."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import nn

from medfm_compress.compress.networks.backbone import BackboneCard, check_input, find_start
from medfm_compress.compress.networks.heads import begin_at_zero, classifier_names
from medfm_compress.compress.networks.model import Architecture, Model, Origin, create_module, load_weights
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import Colour, ImageSpec
from medfm_compress.runtime.preprocess import spec_from_timm
from medfm_compress.runtime.task import Task


def build_model(
    name: str, task: Task, *, size_px: int, colour: Colour, weights: Path | None = None, spec: ImageSpec | None = None
) -> Model:
    """A timm model for ``task``, from scratch, from local weights, or from the hub.

    Args:
        name: timm name, or ``hf-hub:owner/model``, which asks for the network (or the hub's local cache).
        task: gives the number of logits.
        size_px: height and width of the input, 32 to 1024.
        colour: ``grey`` builds one input channel.
        weights: safetensors, state dict, or the folder of a pre-trained backbone; a classifier of another shape is
            replaced.
        spec: preprocessing; by default the architecture's own.

    Raises:
        ModelError: unknown name, a size that the architecture cannot take, weights that do not fit.
    """
    if not 32 <= size_px <= 1024:
        raise ModelError(f"image size is {size_px}; it must be 32 to 1024 pixels")
    arguments: dict[str, Any] = {"in_chans": 1 if colour == "grey" else 3, "num_classes": len(task.labels)}
    if takes_image_size(name):
        arguments["img_size"] = size_px
    architecture = Architecture(name=name, arguments=arguments)
    module = from_hub(architecture) if name.startswith("hf-hub:") else create_module(architecture)
    card = None if weights is None else _load_start(module, weights, architecture)
    _check_runs(module, name, arguments["in_chans"], size_px)
    published = cast("Mapping[str, Any]", module.pretrained_cfg)
    spec = spec or spec_from_timm(published, height_px=size_px, width_px=size_px, colour=colour)
    licence = str(published.get("license") or "") if name.startswith("hf-hub:") else ""
    model = Model(name.rsplit("/", 1)[-1], module, spec, task, architecture, licence)
    if card is None:
        return model
    origin = Origin(steps=card.provenance.steps)
    return replace(model, licence=card.licence or licence, intended_use=card.intended_use, provenance=origin)


def _load_start(module: nn.Module, weights: Path, architecture: Architecture) -> BackboneCard | None:
    """Load weights into ``module``; the card of a pre-trained backbone, None for a file without one."""
    start = find_start(weights)
    if start.card is not None:
        check_input(start.card, architecture)
    load_weights(module, start.weights, replace_head=True)
    return start.card


def takes_image_size(name: str) -> bool:
    """Whether the architecture fixes its input size at construction (ViT, CoAtNet …) rather than adapting to it."""
    import timm

    if name.startswith("hf-hub:") or not timm.is_model(name):
        return False
    if (timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).fixed_input_size:
        return True
    entry = timm.model_entrypoint(name)
    return "img_size" in inspect.signature(entry).parameters


def from_hub(architecture: Architecture) -> nn.Module:
    """A timm network with the hub's weights, in eval mode; asks for the network, or the hub's local cache.

    Raises:
        ModelError: neither has it, or it is no timm network.
    """
    import timm

    _silence_the_hub()
    try:
        module: nn.Module = timm.create_model(architecture.name, pretrained=True, **architecture.arguments)
    except Exception as exc:
        first = (str(exc).splitlines() or ["no reason given"])[0]
        raise ModelError(f"{architecture.name} could not be had from the hub or its cache: {first}") from exc
    if replaces_classifier(module):
        begin_at_zero(module, classifier_names(module))
    return module.eval()


def replaces_classifier(module: nn.Module) -> bool:
    """Whether timm gave a network with published weights a new classifier, for another number of labels."""
    published = cast("Mapping[str, Any]", module.pretrained_cfg).get("num_classes")
    return published is not None and published != getattr(module, "num_classes", published)


def _silence_the_hub() -> None:
    """Switch the hub's telemetry off, also where its library was imported before and has read its switch already."""
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # for processes that this one starts
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True


def _check_runs(module: nn.Module, name: str, channels: int, size_px: int) -> None:
    import torch

    embed = getattr(module, "patch_embed", None)
    patch = tuple(getattr(embed, "patch_size", (1, 1)))
    overlapping = getattr(getattr(embed, "proj", None), "stride", patch) != patch
    if not overlapping and any(size_px % side for side in patch):
        # timm would cut the odd pixels off without a word
        raise ModelError(f"{name} cannot take {size_px} px whole: its patches have {patch[0]}; give a multiple of it")
    try:
        with torch.inference_mode():
            module(torch.zeros(1, channels, size_px, size_px))
    except (RuntimeError, AssertionError, ValueError) as exc:
        first = (str(exc).splitlines() or ["no reason given"])[0]
        raise ModelError(f"{name} cannot run at {size_px} px: {first}; try a multiple of 32") from None
