"""The folder ``explanations``: pictures and attribution maps of a few cases, as arrays that hold nothing executable.

``maps.npz``: ``images`` uint8 ``[n, H, W, 3]`` (the network's input), ``teacher`` and ``variant`` float32 ``[n, H,
W]`` in [0, 1]. ``agreement.json``: a list of `ExplanationAgreement`; the maps follow its cases, one entry after the
other.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.explanations import ExplanationAgreement
from medfm_compress.bench.html_text import number
from medfm_compress.runtime.codec import decode
from medfm_compress.runtime.errors import InputError

MAPS_NPZ = "maps.npz"
AGREEMENT_JSON = "agreement.json"


class ExplanationPair(NamedTuple):
    """One case as two models see it; ``image`` uint8 ``[H, W, 3]``, maps float32 ``[H, W]`` in [0, 1]."""

    image: NDArray[np.uint8]
    teacher: NDArray[np.float32]
    variant: NDArray[np.float32]
    title: str
    detail: str


def read_pairs(folder: Path) -> tuple[ExplanationPair, ...]:
    """All pairs in ``folder``; none where it has no maps.

    Raises:
        InputError: the arrays or the agreement are damaged, or do not fit each other.
    """
    path = folder / MAPS_NPZ
    if not path.is_file():
        return ()
    images, teacher, variant = _arrays(path)
    captions = _captions(folder / AGREEMENT_JSON)
    if captions and len(captions) != len(images):
        raise InputError(
            f"{path} holds {len(images)} maps, {AGREEMENT_JSON} beside it {len(captions)} cases; explain again"
        )
    captions = captions or [(f"Map {number + 1}", "") for number in range(len(images))]
    rows = zip(images, teacher, variant, captions, strict=True)
    return tuple(ExplanationPair(image, first, second, *told) for image, first, second, told in rows)


def _arrays(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, teacher, variant = archive["images"], archive["teacher"], archive["variant"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
        raise InputError(
            f"cannot read {path}: {exc}; it must hold images, teacher and variant; explain again"
        ) from None
    shape = images.shape[:3]
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] != 3
        or {teacher.shape, variant.shape} != {shape}
    ):
        raise InputError(
            f"{path} holds images {images.shape} {images.dtype} and maps {teacher.shape}, {variant.shape}; "
            "[n, H, W, 3] uint8 and twice [n, H, W] are needed; explain again"
        )
    return images, teacher, variant


def _captions(path: Path) -> list[tuple[str, str]]:
    """Title and details of each map, in their order; none without the file."""
    if not path.is_file():
        return []
    agreements = decode(path.read_bytes(), list[ExplanationAgreement], source=str(path))
    return [
        (
            f"Case {case + 1}: {told.finding or 'label'}, {told.variant}",
            f"{told.method}; rank correlation {number(rank, 2)}, overlap of the hottest tenth {number(overlap, 2)}",
        )
        for told in agreements
        for case, rank, overlap in zip(told.cases, told.rank_correlation, told.overlap, strict=False)
    ]
