"""Agreement of the attribution maps of teacher and variants; the pictures stand in the local gallery."""

from __future__ import annotations

from typing import NamedTuple

from medfm_compress.bench.evaluate.attribution_agreement import RANDOMISED, ExplanationAgreement
from medfm_compress.bench.report import Report


class ExplanationsView(NamedTuple):
    """What was held against the teacher, by name, and whether the floor is among it."""

    rows: list[tuple[str, ExplanationAgreement]]
    has_floor: bool


def explanations_view(report: Report) -> ExplanationsView:
    """Every agreement that was measured."""
    floor = "floor: the teacher with random weights"
    rows = [(floor if entry.variant == RANDOMISED else entry.variant, entry) for entry in report.explanations]
    return ExplanationsView(rows, any(name == floor for name, _ in rows))
