"""A *backbone folder*: a network without a task, ready to start ``finetune`` and ``distill`` from.

``backbone.safetensors`` (float32 weights without the classifier) beside ``backbone.json`` (`BackboneCard`).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
from torch import nn

from medfm_compress.compress.networks.architecture import Architecture
from medfm_compress.compress.networks.heads import classifier_names
from medfm_compress.compress.networks.masking import Masking
from medfm_compress.compress.networks.model import CARD as MODEL_CARD
from medfm_compress.compress.networks.model import NO_ORIGIN, Origin
from medfm_compress.compress.networks.model import WEIGHTS as MODEL_WEIGHTS
from medfm_compress.data.fingerprint import file_sha256
from medfm_compress.runtime.atomic_write import replacing, write_atomically
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.strict_json import decode, encode

CARD = "backbone.json"
WEIGHTS = "backbone.safetensors"
SCHEMA_VERSION = 1


class BackboneCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of ``backbone.json``.

    Attributes:
        name: of the network.
        architecture: how it was built; its number of classes says nothing.
        spec: preprocessing that it learned with.
        masking: how it learned.
        images: that it learned from.
        epochs: that it learned for.
        seed: of the run.
        score: minus the reconstruction loss on validation images.
        licence: of the weights that it started from.
        intended_use: what their publisher says they are for.
        provenance: where the weights came from.
        weights_sha256: of the file of weights.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    architecture: Architecture
    spec: ImageSpec
    masking: Masking
    images: int
    epochs: int
    seed: int
    score: float
    licence: str = ""
    intended_use: str = ""
    provenance: Origin = NO_ORIGIN
    weights_sha256: str = ""


class Start(NamedTuple):
    """Weights to start from, and what is known of them; no card beside a file of anybody else's."""

    weights: Path
    card: BackboneCard | None


def save_backbone(network: nn.Module, card: BackboneCard, folder: Path) -> BackboneCard:
    """Write a backbone folder, the card last; returns the card with the digest of the weights."""
    from safetensors.torch import save_file

    heads = classifier_names(network)
    state = network.state_dict().items()
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state if not name.startswith(heads)}
    (folder / CARD).unlink(missing_ok=True)
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    card = msgspec.structs.replace(card, weights_sha256=file_sha256(folder / WEIGHTS))
    write_atomically(folder / CARD, encode(card))
    return card


def find_start(path: Path) -> Start:
    """The weights at ``path``: a file, or a backbone folder.

    Raises:
        ModelError: a folder of another kind, or weights that their card does not describe.
    """
    if path.is_dir():
        if (path / MODEL_CARD).is_file():
            raise ModelError(f"{path} is a model folder; give its weights, {path / MODEL_WEIGHTS}")
        if not (path / CARD).is_file():
            raise ModelError(f"{path} is no backbone folder: it has no {CARD}; make one with 'medfm-compress pretrain'")
        path = path / WEIGHTS
    card = path.with_name(CARD)
    if path.name != WEIGHTS or not card.is_file():
        return Start(path, None)
    backbone_card = decode(card.read_bytes(), BackboneCard, source=str(card), error=ModelError)
    if backbone_card.schema_version > SCHEMA_VERSION:
        raise ModelError(
            f"{card} has schema {backbone_card.schema_version}; this version reads {SCHEMA_VERSION}: upgrade"
        )
    if not path.is_file() or file_sha256(path) != backbone_card.weights_sha256:
        raise ModelError(f"{path} is not the file that {CARD} describes; restore it or pre-train again")
    return Start(path, backbone_card)


def check_input(card: BackboneCard, architecture: Architecture) -> None:
    """What shapes the weights must be the same there and here.

    Raises:
        ModelError: another number of colours, or another size where the architecture fixes it.
    """
    before, now = card.architecture.arguments, architecture.arguments
    if before.get("in_chans", 3) != now.get("in_chans", now.get("in_channels", 3)):
        colour = "grey" if before.get("in_chans", 3) == 1 else "rgb"
        raise ModelError(f"{card.name} was pre-trained on {colour} images; give --colour {colour}")
    if "img_size" in now and before.get("img_size") != now["img_size"]:
        raise ModelError(
            f"{card.name} was pre-trained at {card.spec.height_px} px, and its architecture fixes the size; give "
            f"--image-size {card.spec.height_px}, or pre-train at {now['img_size']}"
        )
