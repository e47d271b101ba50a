"""An encoder from wherever it comes: distilled, a classifier's or a teacher's own features, or pre-trained ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from medfm_compress.compress.anomaly.options import EncoderSource
from medfm_compress.compress.networks import encoder_folder
from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.backbone import CARD as BACKBONE
from medfm_compress.compress.networks.backbone import find_start
from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.encoder import Encoder, EncoderPlan, plan_encoder
from medfm_compress.compress.networks.model import CARD, NO_ORIGIN, Origin, create_module, load_model, load_weights
from medfm_compress.data.colour_kind import colour_of
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

_ANY = Task(kind="binary", labels=("absent", "present"))  # a classifier has to have some; it is left out
_TIMM = "timm:"


@dataclass(frozen=True)
class OpenedEncoder:
    """An encoder in eval mode, and what is known of it.

    Attributes:
        name: what reports call it.
        encoder: whose projections mean nothing yet, unless it is distilled.
        plan: how to build it.
        spec: its preprocessing.
        lengths: of nested embeddings that it learned; empty for one that is not distilled.
        licence: of the weights.
        intended_use: what their publisher says they are for.
        provenance: where they came from.
    """

    name: str
    encoder: Encoder
    plan: EncoderPlan
    spec: ImageSpec
    lengths: tuple[int, ...] = ()
    licence: str = ""
    intended_use: str = ""
    provenance: Origin = NO_ORIGIN

    @property
    def is_distilled(self) -> bool:
        """Whether it learned a projection."""
        return bool(self.lengths)


@dataclass(frozen=True)
class _Network:
    """A network whose features are read."""

    name: str
    module: nn.Module
    architecture: Architecture
    spec: ImageSpec
    licence: str = ""
    intended_use: str = ""
    provenance: Origin = NO_ORIGIN


def open_encoder(source: EncoderSource, study: Study) -> OpenedEncoder:
    """The encoder that ``source`` names, for the images of ``study``.

    Raises:
        ModelError: there is no such encoder, its network gives no feature maps, or an option that its folder answers.
    """
    folder = Path(source.encoder)
    if (folder / encoder_folder.CARD).is_file():
        return _distilled(source, folder)
    if (folder / CARD).is_file():
        _refuse(source, "model folder", ("weights", "colour"))
        return _with_levels(_of_model(folder), source)
    if (folder / BACKBONE).is_file():
        _refuse(source, "backbone folder", ("weights", "colour"))
        return _with_levels(_of_backbone(folder), source)
    if folder.exists():
        raise ModelError(
            f"{folder} is no encoder; give an encoder folder of 'embed', a model folder, a backbone folder of "
            "'pretrain', or a timm name with --weights"
        )
    return _with_levels(_of_name(source, study), source)


def _distilled(source: EncoderSource, folder: Path) -> OpenedEncoder:
    _refuse(source, "encoder folder", ("weights", "colour", "level"))
    stored = encoder_folder.load_encoder(folder)
    card = stored.card
    return OpenedEncoder(
        name=card.name,
        encoder=stored.encoder,
        plan=card.plan,
        spec=card.spec,
        lengths=card.lengths,
        licence=source.licence or card.licence,
        intended_use=source.intended_use or card.intended_use,
        provenance=card.provenance,
    )


def _of_model(folder: Path) -> _Network:
    model = load_model(folder)
    if model.task.kind in ("anomaly", "segmentation"):
        raise ModelError(
            f"{folder} is a model of kind {model.task.kind}, whose features are not read; give a classifier, or what "
            "'embed' or 'pretrain' made"
        )
    return _Network(
        model.name,
        model.module,
        model.architecture,
        model.spec,
        model.licence,
        model.intended_use,
        model.provenance,
    )


def _of_backbone(folder: Path) -> _Network:
    start = find_start(folder)
    card = start.card
    if card is None:
        raise ModelError(f"{folder} is no backbone folder; make one with 'medfm-compress pretrain'")
    module = create_module(card.architecture)
    load_weights(module, start.weights, replace_head=True)
    return _Network(card.name, module, card.architecture, card.spec, card.licence, card.intended_use, card.provenance)


def _of_name(source: EncoderSource, study: Study) -> _Network:
    name = source.encoder.removeprefix(_TIMM)
    if not source.weights and not name.startswith("hf-hub:"):
        raise ModelError(
            f"{name} has no weights, and features of a network that learned nothing tell nothing; give --weights, a "
            "backbone folder of 'pretrain', or an encoder folder of 'embed'"
        )
    model = build_model(
        name,
        _ANY,
        size_px=source.image_size,
        colour=source.colour or colour_of(study),
        weights=Path(source.weights) if source.weights else None,
    )
    return _Network(
        model.name,
        model.module,
        model.architecture,
        model.spec,
        model.licence,
        model.intended_use,
        model.provenance,
    )


def _with_levels(network: _Network, source: EncoderSource) -> OpenedEncoder:
    plan = plan_encoder(network.module, network.architecture, network.spec.shape, source.level, 0)
    return OpenedEncoder(
        name=network.name,
        encoder=Encoder(network.module, plan).eval(),
        plan=plan,
        spec=network.spec,
        licence=source.licence or network.licence,
        intended_use=source.intended_use or network.intended_use,
        provenance=network.provenance,
    )


def _refuse(source: EncoderSource, what: str, options: tuple[str, ...]) -> None:
    """Raises ModelError where an option was given that the folder answers by itself."""
    plain = EncoderSource(encoder=source.encoder)
    given = [name for name in (*options, "image_size") if getattr(source, name) != getattr(plain, name)]
    if given:
        option = given[0].replace("_", "-")
        raise ModelError(f"{source.encoder} is a {what} and says it itself; leave --{option} out")
