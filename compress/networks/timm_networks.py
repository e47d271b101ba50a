"""Networks of timm: one row of logits an image."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from medfm_compress.compress.networks.architecture import Architecture, Wanted
from medfm_compress.compress.networks.similar_names import nearest
from medfm_compress.runtime.errors import ModelError

IS_DENSE = False


def check_name(name: str) -> None:
    """Whether timm, or a hub, is asked for a network of this name.

    Raises:
        ModelError: timm has none; the nearest names are said.
    """
    import timm

    if not name.startswith("hf-hub:") and not timm.is_model(name):
        near = ", ".join(nearest(name)) or "nothing; see timm.list_models()"
        raise ModelError(f"timm has no model {name!r}; near it: {near}")


def draft(name: str, wanted: Wanted) -> Architecture:
    """The network with as many channels and classes as are wanted, at its size where it fixes one."""
    arguments: dict[str, Any] = {"in_chans": wanted.channels, "num_classes": wanted.outputs}
    if takes_image_size(name):
        arguments["img_size"] = wanted.size_px
    return Architecture(name=name, arguments={**arguments, **wanted.arguments})


def create(architecture: Architecture) -> nn.Module:
    """Build an untrained module.

    Raises:
        ModelError: unknown name, or arguments that the architecture does not take.
    """
    import timm

    check_name(architecture.name)
    try:
        module: nn.Module = timm.create_model(architecture.name, pretrained=False, **architecture.arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError) as exc:
        raise ModelError(f"{architecture.name} cannot be built with {architecture.arguments}: {exc}") from None
    return module


def published(module: nn.Module) -> Mapping[str, Any]:
    """Timm's ``pretrained_cfg``."""
    return cast("Mapping[str, Any]", module.pretrained_cfg)


def takes_image_size(name: str) -> bool:
    """Whether the architecture fixes its input size at construction (ViT, CoAtNet …) rather than adapting to it."""
    import timm

    if name.startswith("hf-hub:") or not timm.is_model(name):
        return False
    if (timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()).fixed_input_size:
        return True
    entry = timm.model_entrypoint(name)
    return "img_size" in inspect.signature(entry).parameters
