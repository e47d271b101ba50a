r"""Networks that score anomalies: an encoder and a scorer in one graph, `Architecture.library` ``anomaly``.

.. math:: z = (s - m) / d

s the scorer's score, m the median and d the spread of the scores of normal validation cases, so that 0 is a usual
normal image, whatever the scorer. Maps are in the same unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn

from medfm_compress.compress.networks.architecture import Architecture, Wanted
from medfm_compress.compress.networks.encoder import Encoder, EncoderPlan, create_encoder
from medfm_compress.compress.networks.scorers.knn import NearestNeighbours
from medfm_compress.compress.networks.scorers.mahalanobis import Mahalanobis
from medfm_compress.compress.networks.scorers.memory import Storage
from medfm_compress.compress.networks.scorers.patches import Patches
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.strict_json import convert

LIBRARY = "anomaly"
IS_DENSE = False
ScorerName = Literal["knn", "mahalanobis", "patches"]


class ScorerPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network with a scorer is built; the arguments of its `Architecture`.

    Attributes:
        encoder: see `EncoderPlan`.
        rows: of the memory; 0 without one.
        neighbours: rows that a query is compared with; 0 without a memory.
        storage: of the memory.
    """

    encoder: EncoderPlan
    rows: int = 0
    neighbours: int = 0
    storage: Storage = "float16"


class AnomalyNetwork(nn.Module):
    """Images → ``logits`` ``[n, 1]`` and what else its scorer gives; see `export.module_outputs`.

    Attributes:
        encoder: see `Encoder`.
        scorer: see `scorers`; its scores are distances.
        output_names: of what it returns.
    """

    median: Tensor
    spread: Tensor

    def __init__(self, encoder: Encoder, scorer: nn.Module) -> None:
        super().__init__()
        self.encoder, self.scorer = encoder, scorer
        self.output_names: tuple[str, ...] = scorer.output_names  # type: ignore[assignment]
        self.register_buffer("median", torch.zeros(1))
        self.register_buffer("spread", torch.ones(1))

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """As ``output_names`` says, of normalised images ``[n, channels, height, width]``."""
        given: tuple[Tensor, ...] = self.scorer(self.encoder, images)
        answers = tuple(
            answer if name == "nearest" else (answer - self.median) / self.spread
            for name, answer in zip(self.output_names, given, strict=True)
        )
        return answers if len(answers) > 1 else answers[0]


def create_scorer(name: str, plan: ScorerPlan) -> nn.Module:
    """An empty scorer.

    Raises:
        ModelError: none of this name.
    """
    check_name(name)
    return _SCORERS[name](plan)


_SCORERS: Mapping[str, Callable[[ScorerPlan], nn.Module]] = MappingProxyType(
    {
        "knn": lambda plan: NearestNeighbours(plan.rows, plan.encoder.width, plan.neighbours, plan.storage),
        "mahalanobis": lambda plan: Mahalanobis(plan.encoder.width),
        "patches": lambda plan: Patches(plan.rows, plan.encoder.width, plan.neighbours, plan.storage),
    }
)
SCORERS = tuple(_SCORERS)


def check_name(name: str) -> None:
    """Raises ModelError where there is no such scorer."""
    if name not in _SCORERS:
        raise ModelError(f"no scorer is called {name!r}; allowed are {', '.join(_SCORERS)}")


def architecture_of(name: ScorerName, plan: ScorerPlan) -> Architecture:
    """How a network of a scorer and its encoder is built again."""
    arguments: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(plan))  # as it is read back
    return Architecture(library=LIBRARY, name=name, arguments=arguments)


def draft(name: str, wanted: Wanted) -> Architecture:
    """Raises ModelError: what such a network compares with is measured, not named."""
    raise ModelError(
        "a network that scores anomalies is fitted, not built by name; make one with 'medfm-compress anomaly fit'"
    )


def create(architecture: Architecture) -> nn.Module:
    """The network with an empty memory.

    Raises:
        ModelError: an unknown scorer, or arguments that are not a `ScorerPlan`.
    """
    plan = plan_of(architecture)
    return AnomalyNetwork(create_encoder(plan.encoder), create_scorer(architecture.name, plan))


def plan_of(architecture: Architecture) -> ScorerPlan:
    """The arguments of such an architecture; raises ModelError where they are others."""
    check_name(architecture.name)
    return convert(architecture.arguments, ScorerPlan, source=f"the architecture {architecture.name}", error=ModelError)


def published(module: nn.Module) -> Mapping[str, Any]:
    """Nothing: the spec of its encoder is its own."""
    return {}
