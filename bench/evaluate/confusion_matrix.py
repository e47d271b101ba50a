"""Confusion counts of an evaluation: what was called against what is true."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.runtime.errors import InputError


class Confusion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cases of one finding by truth and decision."""

    finding: str
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


def confusion(evaluation: Evaluation) -> tuple[Confusion, ...]:
    """Confusion counts of every finding."""
    y, d = evaluation.truth, evaluation.decisions
    cells = (y * d, (1 - y) * d, y * (1 - d), (1 - y) * (1 - d))
    tp, fp, fn, tn = (cell.sum(axis=0).tolist() for cell in cells)
    return tuple(
        Confusion(finding=name, true_positives=a, false_positives=b, false_negatives=c, true_negatives=e)
        for name, a, b, c, e in zip(evaluation.findings, tp, fp, fn, tn, strict=True)
    )


def confusion_matrix(evaluation: Evaluation) -> NDArray[np.int64]:
    """Cases by true label (rows) and decided label (columns), int64 ``[labels, labels]``.

    Raises:
        InputError: the labels do not exclude each other.
    """
    if not are_labels_exclusive(evaluation):
        raise InputError(f"evaluation {evaluation.name!r} has no single label a case; use confusion() by finding")
    return evaluation.truth.T @ evaluation.decisions


def are_labels_exclusive(evaluation: Evaluation) -> bool:
    """Whether every case has exactly one of several true labels and exactly one decision."""
    columns = (evaluation.truth, evaluation.decisions)
    return len(evaluation.findings) > 1 and all(bool((column.sum(axis=1) == 1).all()) for column in columns)
