"""Agreement of the attribution maps of teacher and variants; the pictures stand in the local gallery."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medfm_compress.bench.evaluate.attribution_agreement import RANDOMISED, ExplanationAgreement
from medfm_compress.bench.render.format import counted, esc, number
from medfm_compress.bench.report import Report
from medfm_compress.bench.types.verdict import Verdict


def explanations_section(report: Report, _: Verdict) -> str:
    """Median and range of rank correlation and overlap."""
    if not report.explanations:
        return '<p class="lead">No attribution maps were made for this report.</p>'
    head = (
        '<tr><th class="text">Held against the teacher</th><th class="text">Finding</th><th>Cases</th>'
        "<th>Rank correlation<br>of the maps</th><th>Overlap of the<br>hottest tenth</th></tr>"
    )
    floor = any(found.variant == RANDOMISED for found in report.explanations)
    against = (
        " The floor is the teacher against a copy of itself with random weights: agreement no better than that tells "
        "nothing (Adebayo et al. 2018)."
        if floor
        else " No floor (the teacher against a copy with random weights) was measured, so their worth is open."
    )
    return (
        '<p class="lead">Attribution maps show which pixels drive a score. Where teacher and bundle agree they '
        "decide for "
        "similar reasons; that these are the right reasons is not shown by it.</p>"
        f"<table><thead>{head}</thead><tbody>{''.join(map(_row, report.explanations))}</tbody></table>"
        '<p class="note">Median over the cases, with the smallest and the largest value. 1 is identical; '
        "independent maps "
        f"give 0 and 0.1 on average.{against}</p>"
    )


def _row(found: ExplanationAgreement) -> str:
    name = "floor: the teacher with random weights" if found.variant == RANDOMISED else found.variant
    return (
        f'<tr><th class="text">{esc(name)}<span class="sub">{esc(found.method)}</span></th>'
        f'<td class="text">{esc(found.finding or "the true label")}</td><td>{counted(len(found.cases), "case")}</td>'
        f"{_cell(found.rank_correlation)}{_cell(found.overlap)}</tr>"
    )


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "<td>–</td>"
    span = f"{number(min(values), 2)} to {number(max(values), 2)}"
    return f'<td>{number(float(np.median(values)), 2)}<span class="sub">{span}</span></td>'
