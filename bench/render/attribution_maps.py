"""Pictures for the gallery from the folder ``explanations``: what `explain` wrote there, as arrays without code.

``maps.npz`` holds ``images`` uint8 ``[n, H, W, 3]`` (the network's input), ``teacher`` and ``variant`` float32
``[n, H, W]`` in [0, 1]; the maps of each row of ``agreement.json`` follow one another, of the cases that ``cases``
names, in the order in which the row has them.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.attribution_agreement import (
    FOLDER,
    MAPS,
    RANDOMISED,
    ExplanationAgreement,
    load_explanations,
)
from medfm_compress.bench.render.format import number
from medfm_compress.runtime.errors import InputError


class ExplanationPair(NamedTuple):
    """One case as two models see it; ``image`` uint8 ``[H, W, 3]``, maps float32 ``[H, W]`` in [0, 1]."""

    image: NDArray[np.uint8]
    teacher: NDArray[np.float32]
    variant: NDArray[np.float32]
    title: str
    detail: str


def read_pairs(report_folder: Path, cases_sha256: str = "") -> tuple[ExplanationPair, ...]:
    """All pairs below ``report_folder``; none where nothing was explained there.

    Args:
        report_folder: of the bench.
        cases_sha256: of the evaluated cases, as in `EvaluationTable`; empty does not ask.

    Raises:
        InputError: the files are damaged, do not fit each other, or are of other cases.
    """
    rows = load_explanations(report_folder, cases_sha256=cases_sha256)
    if not rows:
        return ()
    path = report_folder / FOLDER / MAPS
    images, teacher, variant, cases = _arrays(path)
    captions = [caption for row in rows for caption in _captions(row, frozenset(cases.tolist()))]
    if len(captions) != len(images):
        raise InputError(
            f"{path} holds {len(images)} maps for {len(captions)} cases; run 'medfm-compress explain' again"
        )
    pairs = zip(images, teacher, variant, captions, strict=True)
    return tuple(ExplanationPair(image, first, second, *text) for image, first, second, text in pairs)


def _arrays(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, teacher, variant = archive["images"], archive["teacher"], archive["variant"]
            cases = archive["cases"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
        raise InputError(f"cannot read {path}: {exc}; run 'medfm-compress explain' again") from None
    fits = images.ndim == 4 and images.shape[3] == 3 and {teacher.shape, variant.shape} == {images.shape[:3]}
    if images.dtype != np.uint8 or not fits:
        raise InputError(
            f"{path} holds images {images.shape} {images.dtype} and maps {teacher.shape}, {variant.shape}; "
            "[n, H, W, 3] uint8 and twice [n, H, W] are needed: run 'medfm-compress explain' again"
        )
    return images, teacher, variant, cases


def _captions(row: ExplanationAgreement, shown: frozenset[int]) -> list[tuple[str, str]]:
    """Title and details of each case of one row that is shown."""
    other = "the teacher with random weights (the floor)" if row.variant == RANDOMISED else row.variant
    return [
        (
            f"Case {case + 1}: {row.finding or 'label'}, teacher and {other}",
            f"{row.method}; rank correlation {number(rank, 2)}, overlap of the hottest tenth {number(overlap, 2)}",
        )
        for case, rank, overlap in zip(row.cases, row.rank_correlation, row.overlap, strict=True)
        if case in shown
    ]
