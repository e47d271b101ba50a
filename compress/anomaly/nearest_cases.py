"""Which training cases the numbers of an output ``nearest`` mean: ``nearest.json`` in a model folder.

Hashes of the stored images alone, so that whoever has the study finds a case, and nobody else learns anything of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from medfm_compress.compress.networks.model import load_model_card
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.strict_json import decode, encode

FILE = "nearest.json"


class NearestCases(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of ``nearest.json``.

    Attributes:
        weights_sha256: of the model that it belongs to.
        images_sha256: of the training images, in the order of their numbers.
    """

    weights_sha256: str
    images_sha256: tuple[str, ...]


def save_nearest_cases(hashes: Sequence[str], weights_sha256: str, folder: Path) -> None:
    """Write them into a model folder."""
    cases = NearestCases(weights_sha256=weights_sha256, images_sha256=tuple(hashes))
    write_atomically(folder / FILE, encode(cases))


def forget_nearest_cases(folder: Path) -> None:
    """Remove those of a model that was in the folder before."""
    (folder / FILE).unlink(missing_ok=True)


def load_nearest_cases(folder: str | Path) -> tuple[str, ...]:
    """Hex sha256 of the training images, in the order of their numbers; empty for a model that has no such output.

    Raises:
        ModelError: no model folder, a damaged file, or one of another model.
    """
    path = Path(folder, FILE)
    card = load_model_card(folder)
    if not path.is_file():
        return ()
    cases = decode(path.read_bytes(), NearestCases, source=str(path), error=ModelError)
    if cases.weights_sha256 != card.weights_sha256:
        raise ModelError(f"{path} belongs to another model; fit this one again with 'medfm-compress anomaly fit'")
    return cases.images_sha256
