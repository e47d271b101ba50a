"""A teacher that is a torchvision classification network with local weights; its classes are counted in them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.model import Model
from medfm_compress.compress.networks.similar_names import resembling
from medfm_compress.compress.teachers.pretrained import Published, as_model, first_line, load_all, read_weights
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import Filter, ImageSpec
from medfm_compress.runtime.task import Task

_FILTERS: dict[str, Filter] = {"nearest": "nearest", "bilinear": "bilinear", "bicubic": "bicubic"}
_OWN_INPUT = ("googlenet", "inception_v3")


def open_torchvision(source: TeacherSource, study: Task) -> Model:
    """The network that ``torchvision:NAME`` and its weights are.

    Raises:
        ModelError: an unknown name (near ones are told), no weights, or weights of another network.
    """
    name = source.source.removeprefix("torchvision:")
    check_torchvision_name(name)
    if not source.weights:
        raise ModelError(f"{source.source} has no weights; give its state dict or safetensors with --teacher-weights")
    state = read_weights(source.weights)
    classifier = f"{_last_layer(name)}.weight"
    if classifier not in state:
        raise ModelError(f"{source.weights} does not fit the architecture: it has no {classifier!r} of {name}")
    architecture = Architecture(library="torchvision", name=name, arguments={"num_classes": len(state[classifier])})
    module = load_all(build_torchvision(name, architecture.arguments), state, source.weights)
    spec, preset = source.given_spec(), ""
    if spec is None:
        spec, preset = _preset(name)
    steps = (f"{name}: preprocessing of torchvision's {preset}",) if preset else ()
    return as_model(Published(name, module, architecture, spec, steps=steps), source, study)


def check_torchvision_name(name: str, *, any_input: bool = False) -> None:
    """Raises ModelError for a name that is none of torchvision's classification networks, with near ones.

    Args:
        name: to check.
        any_input: take those too whose builder decides how they normalise.
    """
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = ", ".join(resembling(name, known)) or "nothing; see torchvision.models.list_models()"
        raise ModelError(f"torchvision has no classification model {name!r}; near it: {near}")
    if own_input(name) and not any_input:
        raise ModelError(
            f"torchvision's {name} normalises its input or not by how it was built, which its weights do not tell; "
            "export it to ONNX, or use timm's"
        )


def own_input(name: str) -> bool:
    """Whether a network normalises its input or not by how it was built."""
    return name in _OWN_INPUT


def build_torchvision(name: str, arguments: dict[str, Any]) -> nn.Module:
    """An untrained network; raises ModelError for arguments that it does not take."""
    import torchvision

    try:
        module: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    except Exception as exc:  # arguments come from a file, and constructors raise anything
        raise ModelError(f"torchvision's {name} cannot be built with {arguments}: {first_line(exc)}") from exc
    return module


def _last_layer(name: str) -> str:
    """Name of the layer that gives the logits."""
    try:
        with torch.device("meta"):
            module = build_torchvision(name, {})
    except ModelError:  # RegNet computes its widths with tensors, which "meta" has not
        module = build_torchvision(name, {})
    layers: list[str] = [key for key, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    return layers[-1]


def _preset(name: str) -> tuple[ImageSpec, str]:
    """The evaluation transform of torchvision's own weights, and what they are called."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    size, resized = preset.crop_size[0], preset.resize_size[0]
    if preset.interpolation.value not in _FILTERS:
        raise ModelError(f"{weights} resizes by {preset.interpolation.value}; give the nearest with --teacher-spec")
    spec = ImageSpec(
        height_px=size,
        width_px=size,
        colour="rgb",
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        resize="shortest",
        filter=_FILTERS[preset.interpolation.value],
        crop_fraction=crop_fraction(size, resized),
    )
    return spec, str(weights)


def crop_fraction(size: int, resized: int) -> float:
    """The largest f with ``floor(size / f) == resized``, or next to it."""
    fraction = size / resized
    return fraction if math.floor(size / fraction) == resized else math.nextafter(fraction, 0)
