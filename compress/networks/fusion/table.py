"""Name of a fusion → its head. What differs between ways of fusion stands in one module each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import nn

from medfm_compress.compress.networks.architecture import FusionMethod
from medfm_compress.compress.networks.fusion.concatenation import Concatenation
from medfm_compress.compress.networks.fusion.film import Film

_HEADS: Mapping[FusionMethod, Callable[[int, int, int, int], nn.Module]] = MappingProxyType(
    {"concatenation": Concatenation, "film": Film}
)


def fusion_head(method: FusionMethod, embedding: int, numbers: int, labels: int, hidden: int) -> nn.Module:
    """The head of one way of fusion; see its module for what the sizes are."""
    return _HEADS[method](embedding, numbers, labels, hidden)
