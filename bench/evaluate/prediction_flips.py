"""Cases on which teacher and variant decide differently, for the report and, with real image names, for an audit.

A flip is *harmful* where the teacher alone is right and *beneficial* where the variant alone is. Where labels exclude
each other both can be wrong in different ways: *neither*.

Of a segmentation a flip is a structure that was lost or invented: one model's label map shows it and the other's does
not, or both show it and one of them elsewhere, with a Dice below the declared value while the other reaches it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from medfm_compress.bench.evaluate.confusion_matrix import are_labels_exclusive
from medfm_compress.bench.evaluate.paired_comparison import check_same_cases
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.runtime.atomic_write import write_atomically

FLIPS_CSV = "flips.csv"
Direction = Literal["harmful", "beneficial", "neither"]
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_ORDER: tuple[Direction, ...] = ("harmful", "neither", "beneficial")


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """One case that one variant decides otherwise than the teacher.

    Attributes:
        case: row of the case in the report's tables, from 0; people read it from 1.
        variant: name of the evaluation.
        finding: whose decision changed; empty where labels exclude each other, one decision a case.
        truth: name of what is true: the finding or ``no <finding>``, or the label.
        teacher: name of what the teacher decides, likewise.
        bundle: name of what the variant decides, likewise.
        teacher_score: teacher's probability of the finding (of the true label where labels exclude each other).
        bundle_score: the variant's, likewise.
        direction: who is right.
        kind: what it means for the patient, e.g. ``newly missed``.
        subgroups: column → value.
    """

    case: int
    variant: str
    finding: str
    truth: str
    teacher: str
    bundle: str
    teacher_score: float
    bundle_score: float
    direction: Direction
    kind: str
    subgroups: dict[str, str] = {}


KINDS: dict[str, Direction] = {
    "newly missed": "harmful",
    "new false alarm": "harmful",
    "newly found": "beneficial",
    "false alarm gone": "beneficial",
}
"""Of a finding; by (truth, what the variant decides): (1, 0), (0, 1), (1, 1), (0, 0)."""
OVERLAP_KINDS: dict[str, Direction] = {"lost: drawn elsewhere": "harmful", "regained: drawn in place": "beneficial"}
"""Of a structure that both models draw."""


def find_flips(teacher: Evaluation, bundle: Evaluation) -> tuple[Flip, ...]:
    """Flips of one variant: harmful ones first, in each direction the largest change of score first.

    Raises:
        InputError: the two were not evaluated on the same cases.
    """
    check_same_cases(teacher, bundle)
    exclusive = are_labels_exclusive(teacher) and are_labels_exclusive(bundle)
    flips = _of_labels(teacher, bundle) if exclusive else _of_findings(teacher, bundle)
    flips += _of_overlap(teacher, bundle)
    return tuple(
        sorted(flips, key=lambda flip: (_ORDER.index(flip.direction), -abs(flip.bundle_score - flip.teacher_score)))
    )


def write_flips(folder: str | Path, teacher: Evaluation, others: Sequence[Evaluation]) -> Path:
    """Write ``flips.csv`` with the real image and patient keys: a local file that must not leave the site.

    It is written without rows too, so that no older one stays behind. Cells that a spreadsheet would run as a formula
    begin with an apostrophe (OWASP, CSV injection).

    Raises:
        InputError: the folder cannot be written, or evaluations of different cases.
    """
    columns = list(teacher.subgroups)
    head = ["case", "image", "patient", "variant", "finding", "truth", "teacher", "bundle"]
    head += ["teacher_score", "bundle_score", "direction", "kind", *columns]
    rows = [
        [
            str(flip.case + 1),
            *map(csv_cell, (teacher.images[flip.case], teacher.clusters[flip.case], flip.variant, flip.finding)),
            *map(csv_cell, (flip.truth, flip.teacher, flip.bundle)),
            f"{flip.teacher_score:.6f}",
            f"{flip.bundle_score:.6f}",
            *map(csv_cell, (flip.direction, flip.kind, *(flip.subgroups[column] for column in columns))),
        ]
        for other in others
        for flip in find_flips(teacher, other)
    ]
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([list(map(csv_cell, head)), *rows])
    path = Path(folder) / FLIPS_CSV
    write_atomically(path, text.getvalue().encode())
    return path


def csv_cell(text: str) -> str:
    """``text`` as a cell that no spreadsheet runs."""
    return f"'{text}" if text.lstrip(" \xa0").startswith(_FORMULA) or text.startswith("'") else text


def _of_findings(teacher: Evaluation, bundle: Evaluation) -> list[Flip]:
    cases, findings = np.nonzero(teacher.decisions != bundle.decisions)
    prediction_flips = []
    for case, column in zip(cases.tolist(), findings.tolist(), strict=True):
        finding = teacher.findings[column]
        names = (f"no {finding}", finding)
        truth, called = int(teacher.truth[case, column]), int(bundle.decisions[case, column])
        kind = {(1, 0): "newly missed", (0, 1): "new false alarm", (1, 1): "newly found", (0, 0): "false alarm gone"}
        prediction_flips.append(
            Flip(
                case=case,
                variant=bundle.name,
                finding=finding,
                truth=names[truth],
                teacher=names[1 - called],
                bundle=names[called],
                teacher_score=float(teacher.scores[case, column]),
                bundle_score=float(bundle.scores[case, column]),
                direction=KINDS[kind[truth, called]],
                kind=kind[truth, called],
                subgroups=_subgroups(teacher, case),
            )
        )
    return prediction_flips


def _of_overlap(teacher: Evaluation, bundle: Evaluation) -> list[Flip]:
    """Structures that both draw, of which one does not meet the true one."""
    if not teacher.case_metrics or teacher.mask_rules is None:
        return []
    before, after = (model.case_metrics["dice"] for model in (teacher, bundle))
    least = teacher.mask_rules.lost_below_dice
    both = (teacher.decisions == 1) & (bundle.decisions == 1)
    flips = []
    for case, column in np.argwhere(both & ((before < least) != (after < least))).tolist():
        finding, lost = teacher.findings[column], bool(after[case, column] < least)
        kind = "lost: drawn elsewhere" if lost else "regained: drawn in place"
        flips.append(
            Flip(
                case=case,
                variant=bundle.name,
                finding=finding,
                truth=finding,
                teacher=f"{finding}, Dice {before[case, column]:.2f}",
                bundle=f"{finding}, Dice {after[case, column]:.2f}",
                teacher_score=float(teacher.scores[case, column]),
                bundle_score=float(bundle.scores[case, column]),
                direction=OVERLAP_KINDS[kind],
                kind=kind,
                subgroups=_subgroups(teacher, case),
            )
        )
    return flips


def _of_labels(teacher: Evaluation, bundle: Evaluation) -> list[Flip]:
    truth, before, after = (table.argmax(axis=1) for table in (teacher.truth, teacher.decisions, bundle.decisions))
    prediction_flips = []
    for case in np.flatnonzero(before != after).tolist():
        true = int(truth[case])
        direction: Direction = "harmful" if before[case] == true else "beneficial" if after[case] == true else "neither"
        kind = {"harmful": "newly wrong", "beneficial": "newly right", "neither": "wrong in another way"}[direction]
        prediction_flips.append(
            Flip(
                case=case,
                variant=bundle.name,
                finding="",
                truth=teacher.findings[true],
                teacher=teacher.findings[before[case]],
                bundle=teacher.findings[after[case]],
                teacher_score=float(teacher.scores[case, true]),
                bundle_score=float(bundle.scores[case, true]),
                direction=direction,
                kind=kind,
                subgroups=_subgroups(teacher, case),
            )
        )
    return prediction_flips


def _subgroups(evaluation: Evaluation, case: int) -> dict[str, str]:
    return {column: values[case] for column, values in evaluation.subgroups.items()}
