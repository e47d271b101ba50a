"""Library → how its networks are built. What differs between libraries stands in one module each.

=========  ==========================================  ==================================================
``timm``   `timm_networks`: one answer an image        ``resnet50``, ``hf-hub:owner/name``
``smp``    `smp_networks`: one answer a pixel          ``smp:unet/tu-mobilenetv3_small_100``
``monai``  `monai_networks`: one answer a pixel        ``monai:segresnet``
=========  ==========================================  ==================================================

Of ``anomaly`` (`anomaly_networks`, an encoder with a scorer) no network is built by name; 'anomaly fit' makes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from torch import nn

from medfm_compress.compress.networks import anomaly_networks, monai_networks, smp_networks, timm_networks
from medfm_compress.compress.networks.architecture import Architecture, Wanted, split_name
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.task import Task


class Library(Protocol):
    """A module that builds networks."""

    IS_DENSE: bool
    """Whether its networks answer for every pixel."""

    def check_name(self, name: str) -> None:
        """Raises ModelError where there is no such network; near names are said."""
        ...

    def draft(self, name: str, wanted: Wanted) -> Architecture:
        """The architecture that a name stands for; raises ModelError for arguments that it does not take."""
        ...

    def create(self, architecture: Architecture) -> nn.Module:
        """An untrained module, nothing downloaded; raises ModelError where it cannot be built."""
        ...

    def published(self, module: nn.Module) -> Mapping[str, Any]:
        """What is known of the preprocessing, with the keys of timm's ``pretrained_cfg``."""
        ...


_LIBRARIES: Mapping[str, Library] = MappingProxyType(
    {"timm": timm_networks, "smp": smp_networks, "monai": monai_networks, "anomaly": anomaly_networks}
)


def library_of(architecture: Architecture) -> Library:
    """The library of an architecture.

    Raises:
        ModelError: none of this name.
    """
    try:
        return _LIBRARIES[architecture.library]
    except KeyError:
        raise ModelError(
            f"architecture library is {architecture.library!r}; those that can be built are {', '.join(_LIBRARIES)}"
        ) from None


def library_for(name: str, task: Task) -> tuple[Library, str]:
    """Library and name within it of what the command line calls a network, for networks of ``task``.

    Raises:
        ModelError: one answer a pixel is asked of a network that gives one an image, or the other way round.
    """
    key, inner = split_name(name)
    library = _LIBRARIES[key]
    if task.is_dense != library.IS_DENSE:
        if task.is_dense:
            raise ModelError(
                f"{name!r} gives one answer an image and the study has masks; give a network that answers for every "
                f"pixel, e.g. smp:unet/tu-{inner.rpartition('/')[2]} or monai:segresnet"
            )
        raise ModelError(
            f"{name!r} answers for every pixel and the task is {task.kind}; give a timm network, or a study with masks "
            "and its --structure"
        )
    return library, inner


def check_network_name(name: str) -> None:
    """Whether the library that ``name`` says has such a network.

    Raises:
        ModelError: it has none; near names are said.
    """
    key, inner = split_name(name)
    _LIBRARIES[key].check_name(inner)
