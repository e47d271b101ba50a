"""The 2-D networks that a MONAI bundle may name; nothing else is built, nothing imported by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.model import create_module
from medfm_compress.compress.networks.monai_networks import NETWORKS as DENSE_NETWORKS
from medfm_compress.compress.networks.monai_networks import class_of
from medfm_compress.compress.teachers.from_torchvision import build_torchvision, check_torchvision_name, own_input
from medfm_compress.compress.teachers.monai_config import TARGET
from medfm_compress.compress.teachers.pretrained import first_line
from medfm_compress.runtime.errors import MissingDependency, ModelError

NETWORKS = (
    *("DenseNet", "DenseNet121", "DenseNet169", "DenseNet201", "DenseNet264", "EfficientNetBN"),
    *("ResNet", "resnet10", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"),
    *("SEResNet50", "SEResNet101", "SEResNet152", "SEResNext50", "SEResNext101", "SENet154", "TorchVisionFCModel"),
)
DENSE = MappingProxyType({class_of(name): name for name in DENSE_NETWORKS})
"""Networks that answer for every pixel: MONAI's class → its name in `networks.monai_networks`."""
_MONAI, _TORCHVISION, _TIMM = "monai.networks.nets.", "torchvision.models.", "timm.create_model"
_DOWNLOADS = ("pretrained", "weights", "progress")  # the bundle has weights of its own
_OF_TIMM = frozenset(("num_classes", "in_chans", "img_size", "global_pool", "drop_rate", "drop_path_rate"))
_CHANNELS = ("in_channels", "n_input_channels", "in_chans")


def build_network(definition: Mapping[str, Any], bundle: str) -> tuple[nn.Module, Architecture]:
    """The untrained network that a bundle defines.

    Args:
        definition: ``_target_`` and arguments, literals throughout.
        bundle: its name.

    Raises:
        ModelError: a network that is not in the list, or arguments that it does not take.
        MissingDependency: MONAI is not installed.
    """
    target = str(definition.get(TARGET, ""))
    arguments = {key: value for key, value in definition.items() if key != TARGET and key not in _DOWNLOADS}
    _check_arguments(arguments, bundle)
    if target.startswith(_TORCHVISION):
        name = target.removeprefix(_TORCHVISION)
        check_torchvision_name(name)
        return build_torchvision(name, arguments), Architecture(library="torchvision", name=name, arguments=arguments)
    if target == _TIMM:
        architecture = Architecture(name=str(arguments.pop("model_name", "")), arguments=arguments)
        return _build_timm(architecture), architecture
    name = target.rsplit(".", 1)[-1]
    if name in DENSE and target in (name, _MONAI + name):
        dense = Architecture(library="monai", name=DENSE[name], arguments=arguments)
        return create_module(dense), dense
    if name not in NETWORKS or not (target == name or target.startswith(_MONAI)):
        raise ModelError(
            f"the network of {bundle} is {target!r}, which is not built; allowed are torchvision.models.NAME, {_TIMM}, "
            f"and of MONAI {', '.join((*NETWORKS, *DENSE))}"
        )
    if name == "TorchVisionFCModel":
        _check_inner(definition, bundle)
    return _build_monai(name, arguments), Architecture(library="monai", name=name, arguments=arguments)


def channels_of(architecture: Architecture) -> int:
    """Channels of the input: as the arguments say, else 3."""
    if architecture.name == "TorchVisionFCModel":  # its in_channels are those of its last layer
        return 3
    channels = [architecture.arguments[name] for name in _CHANNELS if name in architecture.arguments]
    return int(channels[0]) if channels else 3


def _build_timm(architecture: Architecture) -> nn.Module:
    if ":" in architecture.name:
        raise ModelError(f"the bundle's network {architecture.name!r} is no timm name; give a hub's with hf-hub:")
    odd = sorted(architecture.arguments.keys() - _OF_TIMM)
    if odd:  # timm would read files and addresses that some of the others name
        raise ModelError(f"the bundle gives {_TIMM} the argument {odd[0]!r}; allowed are {', '.join(sorted(_OF_TIMM))}")
    return create_module(architecture)


def _build_monai(name: str, arguments: dict[str, Any]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what MONAI itself calls
        try:
            from monai.networks import nets
        except ImportError as exc:
            raise MissingDependency(f"a MONAI bundle needs monai ({exc}): pip install monai") from None
        make = getattr(nets, name)
        if "pretrained" in inspect.signature(make).parameters:
            arguments = {**arguments, "pretrained": False}
        try:
            module: nn.Module = make(**arguments)
        except Exception as exc:
            raise ModelError(f"MONAI's {name} cannot be built with {arguments}: {first_line(exc)}") from exc
    return module


def _check_arguments(arguments: Mapping[str, Any], bundle: str) -> None:
    if arguments.get("spatial_dims", 2) != 2 or arguments.get("dim", 2) != 2:
        raise ModelError(f"the network of {bundle} is not 2-D; only images of two dimensions are taken")
    text = repr(arguments)
    if TARGET in text:
        raise ModelError(f"an argument of the network of {bundle} is itself built ({text[:200]}); give plain values")


def _check_inner(definition: Mapping[str, Any], bundle: str) -> None:
    name = str(definition.get("model_name", "resnet18"))
    check_torchvision_name(name, any_input=True)
    if own_input(name) and definition.get("pretrained"):
        raise ModelError(
            f"{bundle} started from torchvision's pre-trained {name}, which normalises its input by itself"
        )
