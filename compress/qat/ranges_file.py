"""``quantization.json`` of a model folder: the ranges that a student was trained with, for the weights beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from medfm_compress.compress.networks.model import load_model_card
from medfm_compress.compress.quantization.range_estimators import Range
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.strict_json import decode, encode

FILE = "quantization.json"
SCHEMA_VERSION = 1


class TrainedRanges(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of ``quantization.json``.

    Attributes:
        weights_sha256: of the weights that were trained with these ranges; with others they mean nothing.
        inputs: name of a layer in the module → the range of its input.
    """

    schema_version: int = SCHEMA_VERSION
    weights_sha256: str
    inputs: dict[str, Range]


def save_ranges(ranges: Mapping[str, Range], weights_sha256: str, folder: str | Path) -> None:
    """Write the ranges beside the model that is in ``folder``."""
    content = TrainedRanges(weights_sha256=weights_sha256, inputs=dict(ranges))
    write_atomically(Path(folder) / FILE, encode(content))


def load_ranges(folder: str | Path) -> dict[str, Range]:
    """The ranges of a model folder; empty where it was not trained with any, or was trained again since.

    Raises:
        ModelError: no model folder, a damaged file, or one of a newer version.
    """
    path = Path(folder) / FILE
    card = load_model_card(folder)
    if not path.is_file():
        return {}
    trained = decode(path.read_bytes(), TrainedRanges, source=str(path), error=ModelError)
    if trained.schema_version > SCHEMA_VERSION:
        raise ModelError(f"{path} has schema {trained.schema_version}; this version reads {SCHEMA_VERSION}: upgrade")
    return trained.inputs if trained.weights_sha256 == card.weights_sha256 else {}
