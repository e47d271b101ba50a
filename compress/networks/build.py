"""Build a `Model` from a network's name for a study: input size, colour, weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import msgspec
from torch import nn

from medfm_compress.compress.networks.architecture import Architecture, Wanted, split_name
from medfm_compress.compress.networks.backbone import BackboneCard, check_input, find_start
from medfm_compress.compress.networks.encoder_weights import is_of_encoder, load_encoder
from medfm_compress.compress.networks.heads import begin_at_zero, classifier_names
from medfm_compress.compress.networks.libraries import library_for
from medfm_compress.compress.networks.model import Model, Origin, create_module, load_weights
from medfm_compress.compress.networks.smp_networks import TIMM_ENCODER
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import Colour, ImageSpec
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.timm_spec import spec_from_timm

_STEPS = (2, 4, 8, 16, 32, 64)  # of which a network that answers for every pixel may want a multiple


def build_model(
    name: str,
    task: Task,
    *,
    size_px: int,
    colour: Colour,
    weights: Path | None = None,
    spec: ImageSpec | None = None,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> Model:
    """A network for ``task``, from scratch, from local weights, or from the hub.

    Args:
        name: timm name, ``hf-hub:owner/model``, which asks for the network (or the hub's local cache), or of a
            segmentation ``smp:DECODER/ENCODER`` or ``monai:NAME``, see `libraries`.
        task: gives the number of logits, or of maps.
        size_px: height and width of the input, 32 to 1024.
        colour: ``grey`` builds one input channel.
        weights: safetensors, state dict, or the folder of a pre-trained backbone; a classifier of another shape is
            replaced. An encoder's file serves a network of segmentation, see `encoder_weights`.
        spec: preprocessing; by default the architecture's own, of a segmentation with the whole image in it.
        arguments: of the network's constructor, over those that follow from its name.

    Raises:
        ModelError: unknown name, a size that the architecture cannot take, weights that do not fit, or a network that
            answers another question than the task's.
    """
    if not 32 <= size_px <= 1024:
        raise ModelError(f"image size is {size_px}; it must be 32 to 1024 pixels")
    library, inner = library_for(name, task)
    channels = 1 if colour == "grey" else 3
    architecture = library.draft(inner, Wanted(len(task.labels), channels, size_px, dict(arguments)))
    module = from_hub(architecture) if name.startswith("hf-hub:") else create_module(architecture)
    card = None if weights is None else _load_start(module, weights, architecture)
    shape = (len(task.labels), size_px, size_px) if task.is_dense else (len(task.labels),)
    check_runs(module, name, (1, channels, size_px, size_px), shape)
    published = library.published(module)
    if spec is None:
        spec = spec_from_timm(published, height_px=size_px, width_px=size_px, colour=colour)
        spec = msgspec.structs.replace(spec, resize="stretch", crop_fraction=1.0) if task.is_dense else spec
    licence = str(published.get("license") or "") if name.startswith("hf-hub:") else ""
    model = Model(model_name(name), module, spec, task, architecture, licence)
    if card is None:
        return model
    origin = Origin(steps=card.provenance.steps)
    return replace(model, licence=card.licence or licence, intended_use=card.intended_use, provenance=origin)


def model_name(name: str) -> str:
    """What reports call a network: ``unet-mobilenetv3_small_100`` of ``smp:unet/tu-mobilenetv3_small_100``."""
    key, inner = split_name(name)
    if key == "smp":
        decoder, _, encoder = inner.partition("/")
        return f"{decoder}-{encoder.removeprefix(TIMM_ENCODER)}"
    return inner.rsplit("/", 1)[-1]


def _load_start(module: nn.Module, weights: Path, architecture: Architecture) -> BackboneCard | None:
    """Load weights into ``module``; the card of a pre-trained backbone, None for a file without one."""
    start = find_start(weights)
    if start.card is not None:
        check_input(start.card, architecture)
    if architecture.library == "smp" and is_of_encoder(module, start.weights):
        load_encoder(module, start.weights)
    else:
        load_weights(module, start.weights, replace_head=True)
    return start.card


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


def check_runs(module: nn.Module, name: str, shape: tuple[int, ...], answer: tuple[int, ...]) -> None:
    """Whether ``module`` gives ``[1, *answer]`` of an image ``shape`` ``[1, channels, size, size]``.

    Raises:
        ModelError: it cannot run at this size, or answers in another shape; the nearest size that it takes is said.
    """
    size_px = shape[-1]
    embed = getattr(module, "patch_embed", None)
    patch = tuple(getattr(embed, "patch_size", (1, 1)))
    overlapping = getattr(getattr(embed, "proj", None), "stride", patch) != patch
    if not overlapping and any(size_px % side for side in patch):
        # timm would cut the odd pixels off without a word
        raise ModelError(f"{name} cannot take {size_px} px whole: its patches have {patch[0]}; give a multiple of it")
    problem = _problem(module, shape, answer)
    if not problem:
        return
    if len(answer) == 1:
        raise ModelError(f"{name} cannot run at {size_px} px: {problem}; try a multiple of 32")
    for step in _STEPS:
        side = -(-size_px // step) * step
        if side != size_px and not _problem(module, (*shape[:2], side, side), (answer[0], side, side)):
            way_out = f"give a multiple of {step}, e.g. {side}" if size_px % 32 else f"it is too small: give {side}"
            raise ModelError(f"{name} cannot take {size_px} px; {way_out}")
    raise ModelError(f"{name} cannot run at {size_px} px: {problem}")


def _problem(module: nn.Module, shape: tuple[int, ...], answer: tuple[int, ...]) -> str:
    """Why a network does not give ``answer`` of an image, as a phrase; empty where it does."""
    import torch

    try:
        with torch.inference_mode():
            logits = module(torch.zeros(shape))
    except (RuntimeError, AssertionError, ValueError) as exc:
        return (str(exc).splitlines() or ["no reason given"])[0]
    if not isinstance(logits, torch.Tensor):
        return f"it gives a {type(logits).__name__}, not one tensor of logits"
    if tuple(logits.shape[1:]) != answer:
        return f"it gives {tuple(logits.shape[1:])} for an image, and {answer} is wanted"
    return ""
