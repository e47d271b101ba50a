"""``medfm-compress explain``: do teacher and student look at the same places?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle, Overwrite, ReportOut, Study, Teachers
from medfm_compress.cli.command import command
from medfm_compress.cli.outputs import check_report_out
from medfm_compress.compress.explain.options import ExplainOptions
from medfm_compress.compress.teachers.source import TeacherSource

if TYPE_CHECKING:
    from medfm_compress.bench.evaluate.attribution_agreement import ExplanationAgreement
    from medfm_compress.compress.explain.explain import Explained


@command()
def explain(
    bundle: Bundle,
    options: ExplainOptions,
    teacher: Teachers,
    study: Study,
    out: ReportOut,
    student: Annotated[
        Path | None, typer.Option(help="Model folder that the bundle was exported from; with --method gradient.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare where teacher and student look on a few cases, as numbers and as maps that bench shows.

    It looks at images of the test split but at no metric: it is no evaluation, and no model may be chosen by it. The
    maps, and their pictures, hold images of patients and stay in the folder, under 'explanations'.
    """
    check_report_out(out, overwrite, ("explanations",))
    from medfm_compress import steps

    sources = tuple(TeacherSource(source=name) for name in teacher)
    explained = steps.explain(bundle, sources, study, options, console.progress, out, student)
    pictures = sorted(map(str, explained.folder.glob("*.png")))
    document = {"folder": str(explained.folder), "agreements": explained.agreements, "pictures": pictures}
    console.emit(lambda: document, lambda: _print_agreements(explained))


def _print_agreements(explained: Explained) -> None:
    console.table(
        ["against the teacher", "method", "cases", "rank correlation", "lowest", "overlap", "lowest"],
        [_row(agreement) for agreement in explained.agreements],
    )
    console.say()
    console.say("randomised is the teacher with random weights: agreement that is no higher tells nothing")
    console.say(f"maps and pictures, with images of patients: {explained.folder}")


def _row(agreement: ExplanationAgreement) -> list[str]:
    ranks, overlaps = agreement.rank_correlation, agreement.overlap
    figures = (sum(ranks) / len(ranks), min(ranks), sum(overlaps) / len(overlaps), min(overlaps))
    return [agreement.variant, agreement.method, str(len(agreement.cases)), *(f"{value:.2f}" for value in figures)]
