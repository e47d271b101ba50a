"""An *encoder folder*: what 'medfm-compress embed' makes, and 'anomaly fit' takes.

``encoder.safetensors`` (float32 weights) beside ``encoder.json`` (`EncoderCard`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from medfm_compress.compress.networks.encoder import Encoder, EncoderPlan, create_encoder
from medfm_compress.compress.networks.model import NO_ORIGIN, Origin, load_weights
from medfm_compress.data.fingerprint import file_sha256
from medfm_compress.runtime.atomic_write import replacing, write_atomically
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.strict_json import decode, encode

CARD = "encoder.json"
WEIGHTS = "encoder.safetensors"
SCHEMA_VERSION = 1


class EncoderCard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of ``encoder.json``.

    Attributes:
        name: what reports call it.
        plan: how to build it.
        spec: its preprocessing.
        lengths: of the nested embeddings, ascending; the last is the whole.
        licence: of the weights that it learned from.
        intended_use: what their publisher says they are for.
        provenance: where the weights came from.
        weights_sha256: of the file of weights.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    plan: EncoderPlan
    spec: ImageSpec
    lengths: tuple[int, ...]
    licence: str = ""
    intended_use: str = ""
    provenance: Origin = NO_ORIGIN
    weights_sha256: str = ""


@dataclass(frozen=True)
class StoredEncoder:
    """An encoder in eval mode, and what is known of it."""

    encoder: Encoder
    card: EncoderCard


def save_encoder(encoder: Encoder, card: EncoderCard, folder: Path) -> EncoderCard:
    """Write an encoder folder, the card last; returns the card with the digest of the weights."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in encoder.state_dict().items()}
    (folder / CARD).unlink(missing_ok=True)
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    card = msgspec.structs.replace(card, weights_sha256=file_sha256(folder / WEIGHTS))
    write_atomically(folder / CARD, encode(card))
    return card


def load_encoder(folder: Path) -> StoredEncoder:
    """Read an encoder folder.

    Raises:
        ModelError: no such folder, a newer schema, or weights that the card does not describe.
    """
    path = folder / CARD
    if not path.is_file():
        raise ModelError(f"{folder} is no encoder folder: it has no {CARD}; make one with 'medfm-compress embed'")
    card = decode(path.read_bytes(), EncoderCard, source=str(path), error=ModelError)
    if card.schema_version > SCHEMA_VERSION:
        raise ModelError(f"{path} has schema {card.schema_version}; this version reads {SCHEMA_VERSION}: upgrade")
    weights = folder / WEIGHTS
    if not weights.is_file() or file_sha256(weights) != card.weights_sha256:
        raise ModelError(f"{weights} is not the file that {CARD} describes; restore it or distil again")
    encoder = create_encoder(card.plan)
    load_weights(encoder, weights)
    return StoredEncoder(encoder, card)
