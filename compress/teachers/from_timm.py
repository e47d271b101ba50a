"""A teacher that is a timm network with local weights; its classifier, channels and size are read from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor, nn

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.model import Model, create_module
from medfm_compress.compress.networks.timm_networks import takes_image_size
from medfm_compress.compress.teachers.pretrained import Published, as_model, load_all, read_weights
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import Colour, ImageSpec
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.timm_spec import spec_from_timm

_COLOURS: dict[int, Colour] = {1: "grey", 3: "rgb"}


def open_timm(source: TeacherSource, study: Task) -> Model:
    """The network that ``timm:NAME`` and its weights are.

    Raises:
        ModelError: an unknown name (near ones are told), no weights, or weights of another network.
    """
    name = source.source.removeprefix("timm:")
    check_timm_name(name)
    if not source.weights:
        raise ModelError(
            f"{source.source} has no weights; give a safetensors file or state dict with --teacher-weights, or the "
            f"hub's with hf-hub:timm/{name}"
        )
    state = read_weights(source.weights)
    own_spec = source.given_spec()
    arguments = _arguments(name, state, source.weights)
    if own_spec and takes_image_size(name):
        square = own_spec.height_px == own_spec.width_px
        arguments["img_size"] = own_spec.height_px if square else (own_spec.height_px, own_spec.width_px)
    architecture = Architecture(name=name, arguments=arguments)
    hint = "if it was trained at another image size, give its --teacher-spec" if takes_image_size(name) else ""
    module = load_all(create_module(architecture), state, source.weights, hint)
    spec = own_spec or published_spec(module, name, arguments["in_chans"])
    steps = () if own_spec else (f"{name}: preprocessing of timm's configuration",)
    return as_model(Published(name, module, architecture, spec, steps=steps), source, study)


def check_timm_name(name: str) -> None:
    """Raises ModelError for a name that timm does not know, with near ones."""
    import timm

    from medfm_compress.compress.networks.similar_names import nearest

    if not timm.is_model(name):
        near = ", ".join(nearest(name)) or "nothing; see timm.list_models()"
        raise ModelError(f"timm has no model {name!r}; near it: {near}")


def published_spec(module: nn.Module, name: str, channels: int) -> ImageSpec:
    """The preprocessing that timm's configuration of a network states, at the size that it states.

    Raises:
        ModelError: it cannot be expressed.
    """
    published = cast("Mapping[str, Any]", module.pretrained_cfg)
    _, height, width = published.get("input_size") or (channels, 224, 224)
    if channels not in _COLOURS:
        raise ModelError(f"{name} takes images of {channels} channels; 1 (grey) or 3 (rgb) are allowed")
    try:
        return spec_from_timm(published, height_px=height, width_px=width, colour=_COLOURS[channels])
    except InputError as exc:
        raise ModelError(f"{name}: {exc}; or give the preprocessing with --teacher-spec") from None


def _arguments(name: str, state: Mapping[str, Tensor], path: str) -> dict[str, Any]:
    """``num_classes`` and ``in_chans`` as the weights have them."""
    import timm

    published = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    classifier = _weight(state, published.classifier)
    if classifier is None:
        raise ModelError(
            f"{path} has no classifier {published.classifier!r} of {name}; a teacher answers with labels: give weights "
            "of the whole network, under timm's names"
        )
    first = _weight(state, published.first_conv)
    channels = published.input_size[0] if first is None else first.shape[1]
    return {"in_chans": int(channels), "num_classes": len(classifier)}


def _weight(state: Mapping[str, Tensor], layer: str | tuple[str, ...] | None) -> Tensor | None:
    """Weight of a layer, or of the first of several."""
    names = (layer,) if isinstance(layer, str) else layer or ()
    return state.get(f"{names[0]}.weight") if names else None
