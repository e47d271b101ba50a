"""Agreement of the attribution maps of teacher and variants; the pictures stand in the local gallery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from medfm_compress.bench.evaluate.attribution_agreement import RANDOMISED, ExplanationAgreement
from medfm_compress.bench.evaluate.map_accuracy import compare_pointing
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.interval import Interval

_FLOOR = "floor: the teacher with random weights"


class PointingRow(NamedTuple):
    """The pointing game of one variant on the cases with a mask of the finding."""

    name: str
    cases: int
    teacher: Interval
    own: Interval
    difference: Interval


class ExplanationsView(NamedTuple):
    """What was held against the teacher, by name, whether the floor is among it, and how often each hits the mask."""

    rows: list[tuple[str, ExplanationAgreement]]
    has_floor: bool
    pointing: list[PointingRow]


def explanations_view(report: Report) -> ExplanationsView:
    """Every agreement that was measured."""
    rows = [(_FLOOR if entry.variant == RANDOMISED else entry.variant, entry) for entry in report.explanations]
    return ExplanationsView(rows, any(name == _FLOOR for name, _ in rows), list(_pointing(report, rows)))


def _pointing(report: Report, rows: list[tuple[str, ExplanationAgreement]]) -> Iterator[PointingRow]:
    for name, entry in rows:
        compared = compare_pointing(entry, report.teacher.clusters, report.policy)
        if compared is not None:
            means, cases = compared
            count = cases.values.shape[1]
            yield PointingRow(name, count, means.teacher, means.bundle, means.difference)
