"""`Architecture`: how a network is built, and its name on a command line: ``LIBRARY:NAME``, or a timm name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from medfm_compress.runtime.errors import InputError

OF_SEGMENTATION = ("smp", "monai")
"""Libraries whose networks answer for every pixel; a name of theirs begins with the library and a colon."""


FusionMethod = Literal["concatenation", "film"]
"""How columns beside the image join the embedding; see `fusion`."""
HIDDEN = 32
"""Features that columns become, where nobody says another number."""


class Fusion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The head of a network that takes columns beside the image.

    Attributes:
        method: see `FusionMethod`.
        widths: column and the numbers that it is, in the order of the network's inputs.
        embedding: numbers of the encoder's pooled embedding, before any pruning.
        labels: logits.
        hidden: features that the columns become.
    """

    method: FusionMethod = "concatenation"
    widths: tuple[tuple[str, Annotated[int, Meta(ge=1)]], ...]
    embedding: Annotated[int, Meta(ge=1)]
    labels: Annotated[int, Meta(ge=1)]
    hidden: Annotated[int, Meta(ge=1, le=4096)] = HIDDEN


class Architecture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to build the module: a network's name, its arguments, and what was pruned away afterwards.

    Attributes:
        library: ``timm``, ``smp`` (segmentation-models-pytorch), ``monai`` or ``anomaly``; see `libraries`.
        name: of the network in its library, e.g. ``resnet50``, ``unet``, ``segresnet``.
        arguments: keyword arguments of its constructor (``img_size``, ``in_chans``, ``encoder_name`` …).
        pruning: plan of `pruning.plan`, empty for an unpruned network.
        fusion: of a network of images and columns: what takes the place of its classifier.
    """

    library: str = "timm"
    name: str
    arguments: dict[str, Any] = {}
    pruning: dict[str, Any] = {}
    fusion: Fusion | msgspec.UnsetType = msgspec.UNSET


class Wanted(NamedTuple):
    """What a study needs of a network.

    Attributes:
        outputs: maps, or logits.
        channels: of the image.
        size_px: its height and width.
        arguments: keyword arguments that somebody gave, over those that follow from the name.
    """

    outputs: int
    channels: int
    size_px: int
    arguments: dict[str, Any]


def split_name(name: str) -> tuple[str, str]:
    """Library and name within it: ``smp:unet/tu-resnet18`` is ``("smp", "unet/tu-resnet18")``."""
    library, colon, rest = name.partition(":")
    return (library, rest) if colon and library in OF_SEGMENTATION else ("timm", name)


def parse_arguments(texts: Mapping[str, str]) -> dict[str, Any]:
    """Keyword arguments from text: JSON, or else the text itself; ``64,32,16`` is a list.

    Raises:
        InputError: a list of which one part is no number.
    """
    return {name: _parsed(name, text.strip()) for name, text in texts.items()}


def _parsed(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass
    if "," not in text:
        return text
    try:
        return json.loads(f"[{text.strip(',')}]")
    except ValueError:
        raise InputError(f"network argument {name} is {text!r}; give a number, a word or numbers with commas") from None
