"""The per-case table as CSV: what every model said of every case, under hashes that its owner alone can resolve.

A case is named by HMAC-SHA256(salt, its key), a patient likewise, 32 hex digits each. The salt is 32 random bytes that
are kept at home and stand in no pack: who has salt and study finds a case again, who has the pack alone does not.
Without a study, positions in the report stand for the keys. Columns of the study are those that the report has.
"""

from __future__ import annotations

import csv
import hashlib
import hmac
import io
from collections.abc import Sequence
from typing import NamedTuple

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.prediction_flips import csv_cell
from medfm_compress.bench.report import Report
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import EvidenceRefused, InputError

SALT_BYTES = 32
_DIGITS = 32


class CaseIds(NamedTuple):
    """Hashes of cases and patients, one a row of the report's tables."""

    cases: tuple[str, ...]
    patients: tuple[str, ...]


def case_ids(report: Report, salt: bytes, study: Study | None = None) -> CaseIds:
    """Salted hashes of the cases of ``report``, of their keys where a ``study`` is given.

    Raises:
        InputError: the study's cases are not those of the report.
    """
    table = report.teacher
    keys = [f"row {number}" for number in range(len(table.clusters))]
    patients = [f"cluster {number}" for number in table.clusters]
    if study is not None:
        cases = study.labelled_split(report.split)
        keys, patients = [case.image for case in cases], [case.cluster for case in cases]
        if hashlib.sha256("\0".join(keys).encode()).hexdigest() != table.cases_sha256:
            raise InputError(
                f"the {len(keys)} labelled cases of split {report.split!r} of this study are not the "
                f"{len(table.clusters)} of the report; give the study that was benched"
            )
    return CaseIds(
        tuple(_hash(salt, f"case\0{key}") for key in keys), tuple(_hash(salt, f"patient\0{key}") for key in patients)
    )


def case_csv(report: Report, ids: CaseIds) -> bytes:
    """The table: two hashes, the columns, the truth, then scores, decisions and metrics of masks of each evaluation."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([_head(report), *_rows(report, ids)])
    return text.getvalue().encode()


def check_case_csv(content: bytes, report: Report, source: str) -> None:
    """Hold the table in a pack against the report in it.

    Raises:
        EvidenceRefused: a cell differs, or one patient has two hashes.
    """
    try:
        rows = list(csv.reader(io.StringIO(content.decode(), newline="")))
    except (UnicodeDecodeError, csv.Error):
        raise EvidenceRefused(f"{source}: cases.csv is no table") from None
    if not rows:
        raise EvidenceRefused(f"{source}: cases.csv is empty")
    if len(rows) != len(report.teacher.clusters) + 1 or any(len(row) < 2 for row in rows):
        raise EvidenceRefused(
            f"{source}: cases.csv has {len(rows) - 1} cases, the report has {len(report.teacher.clusters)}"
        )
    ids = CaseIds(tuple(row[0] for row in rows[1:]), tuple(row[1] for row in rows[1:]))
    expected = [_head(report), *_rows(report, ids)]
    for number, (actual, wanted) in enumerate(zip(rows, expected, strict=True)):
        if actual != wanted:
            column = next((c for c, (a, w) in enumerate(zip(actual, wanted, strict=False)) if a != w), len(wanted))
            name = wanted[column] if number == 0 else expected[0][min(column, len(expected[0]) - 1)]
            raise EvidenceRefused(f"{source}: cases.csv differs from report.json in case {number}, column {name!r}")
    _check_ids(ids, report.teacher.clusters, source)


def _check_ids(ids: CaseIds, clusters: Sequence[int], source: str) -> None:
    pairs = set(zip(clusters, ids.patients, strict=True))
    if (
        len(pairs) != len(set(clusters))
        or len(pairs) != len(set(ids.patients))
        or len(set(ids.cases)) != len(ids.cases)
    ):
        raise EvidenceRefused(f"{source}: the hashes in cases.csv do not name the report's cases and patients")


def _head(report: Report) -> list[str]:
    names = [f"truth {finding}" for finding in report.teacher.findings]
    for table in report.evaluations:
        told = ("score", "decision", *table.case_metrics)
        names += [f"{what} {finding}, {table.name}" for what in told for finding in table.findings]
    return [csv_cell(name) for name in ("case", "patient", *report.teacher.subgroups, *names)]


def _rows(report: Report, ids: CaseIds) -> list[list[str]]:
    teacher = report.teacher
    return [
        [
            case,
            patient,
            *(csv_cell(values[row]) for values in teacher.subgroups.values()),
            *(str(value) for value in teacher.truth[row]),
            *(cell for table in report.evaluations for cell in _answers(table, row)),
        ]
        for row, (case, patient) in enumerate(zip(ids.cases, ids.patients, strict=True))
    ]


def _answers(table: EvaluationTable, row: int) -> list[str]:
    """Of one case; a metric that it does not have, such as the Dice of a structure that is not there, is empty."""
    metrics = [value for rows in table.case_metrics.values() for value in rows[row]]
    return [
        *(repr(float(score)) for score in table.scores[row]),
        *(str(value) for value in table.decisions[row]),
        *("" if value is None else repr(float(value)) for value in metrics),
    ]


def _hash(salt: bytes, key: str) -> str:
    return hmac.new(salt, key.encode(), hashlib.sha256).hexdigest()[:_DIGITS]
