"""Two-dimensional networks of MONAI that answer for every pixel: ``monai:unet``, ``monai:segresnet`` ….

Sizes are those of a network that trains on a workstation; any argument of the constructor may be given instead.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from medfm_compress.compress.networks.architecture import Architecture, Wanted
from medfm_compress.runtime.errors import MissingDependency, ModelError

IS_DENSE = True


class _Network(NamedTuple):
    """MONAI's class, the arguments that it begins with, and the layer that gives the logits, dot included."""

    kind: str
    arguments: Mapping[str, Any]
    head: str


_NETWORKS: Mapping[str, _Network] = MappingProxyType(
    {
        "unet": _Network(
            "UNet",
            {
                "channels": [16, 32, 64, 128, 256],
                "strides": [2, 2, 2, 2],
                "num_res_units": 2,
                "norm": "BATCH",
                "act": "RELU",
            },
            "model.2.",
        ),
        "basicunet": _Network("BasicUNet", {"features": [16, 16, 32, 64, 128, 16], "norm": "BATCH"}, "final_conv."),
        "attentionunet": _Network("AttentionUnet", {"channels": [16, 32, 64, 128], "strides": [2, 2, 2]}, "model.2."),
        "dynunet": _Network(
            "DynUNet",
            {
                "kernel_size": [3, 3, 3, 3, 3],
                "strides": [1, 2, 2, 2, 2],
                "upsample_kernel_size": [2, 2, 2, 2],
                "filters": [16, 32, 64, 128, 256],
                "norm_name": "BATCH",
            },
            "output_block.",
        ),
        "segresnet": _Network("SegResNet", {"init_filters": 16, "norm": "BATCH"}, "conv_final."),
        "unetr": _Network(
            "UNETR",
            {"feature_size": 16, "hidden_size": 192, "mlp_dim": 768, "num_heads": 3, "norm_name": "BATCH"},
            "out.",
        ),
        "swinunetr": _Network("SwinUNETR", {"feature_size": 12, "norm_name": "BATCH"}, "out."),
    }
)
NETWORKS = tuple(_NETWORKS)
_SIZED = frozenset({"unetr"})  # built for one size of image
_WITH_EINOPS = frozenset({"unetr", "swinunetr"})


def check_name(name: str) -> None:
    """Raises ModelError where there is no such network."""
    if name not in _NETWORKS:
        raise ModelError(f"MONAI's network {name!r} is not built; allowed are {', '.join(_NETWORKS)}")


def draft(name: str, wanted: Wanted) -> Architecture:
    """The network with as many channels and maps as are wanted.

    Raises:
        ModelError: an unknown name.
    """
    check_name(name)
    arguments = {
        **_NETWORKS[name].arguments,
        "spatial_dims": 2,
        "in_channels": wanted.channels,
        "out_channels": wanted.outputs,
        **({"img_size": wanted.size_px} if name in _SIZED else {}),
        **wanted.arguments,
    }
    return Architecture(library="monai", name=name, arguments=arguments)


def create(architecture: Architecture) -> nn.Module:
    """Build an untrained module.

    Raises:
        ModelError: an unknown name, three dimensions, or arguments that the network does not take.
        MissingDependency: MONAI, or what this network of it needs, is not installed.
    """
    check_name(architecture.name)
    if architecture.arguments.get("spatial_dims", 2) != 2:
        raise ModelError(f"monai:{architecture.name} is asked for three dimensions; an image has two")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what MONAI itself calls
        try:
            from monai.networks import nets
        except ImportError as exc:
            raise MissingDependency(f"monai:{architecture.name} needs monai ({exc}): pip install monai") from None
        if architecture.name in _WITH_EINOPS and importlib.util.find_spec("einops") is None:
            raise MissingDependency(f"monai:{architecture.name} needs einops: pip install einops")
        try:
            module: nn.Module = getattr(nets, _NETWORKS[architecture.name].kind)(**architecture.arguments)
        except Exception as exc:  # noqa: BLE001 -- a constructor raises what it likes
            raise ModelError(
                f"monai:{architecture.name} cannot be built with {architecture.arguments}: {_first_line(exc)}"
            ) from None
    return module


def published(module: nn.Module) -> Mapping[str, Any]:
    """Nothing: no weights were published with these sizes. ImageNet's mean and standard deviation hold then."""
    return {}


def class_of(name: str) -> str:
    """What MONAI calls a network."""
    return _NETWORKS[name].kind


def head_of(module: nn.Module) -> str:
    """Prefix, dot included, of the layer that gives the logits; empty for a network of another library."""
    if not type(module).__module__.startswith("monai."):
        return ""
    kind = type(module).__name__
    return next((network.head for network in _NETWORKS.values() if network.kind == kind), "")


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0]
