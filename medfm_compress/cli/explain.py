"""``medfm-compress explain``: do teacher and student look at the same places?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from medfm_compress.cli import console

if TYPE_CHECKING:
    from medfm_compress.bench.evaluate.attribution_agreement import ExplanationAgreement
    from medfm_compress.compress.explain.explain import Explained, Method


def explain(
    bundle: Annotated[Path, typer.Argument(help="The .medfm file.")],
    teacher: Annotated[list[str], typer.Option(help="A network that can teach, see distill.")],
    study: Annotated[Path, typer.Option(help="Study whose images are explained.")],
    out: Annotated[Path, typer.Option(help="Folder of the report; the maps go to its subfolder 'explanations'.")],
    variant: Annotated[str, typer.Option(help="Of the bundle; default: the first that can run here.")] = "",
    finding: Annotated[str, typer.Option(help="Whose score is explained, where the task has several.")] = "",
    cases: Annotated[int, typer.Option(help="How many, half of them with the finding.")] = 16,
    method: Annotated[
        str, typer.Option(help="occlusion (the engine that will run), or gradient (the PyTorch model folders).")
    ] = "occlusion",
    student: Annotated[
        Path | None, typer.Option(help="Model folder that the bundle was exported from; with --method gradient.")
    ] = None,
    split: Annotated[str, typer.Option(help="Split that the cases come from.")] = "test",
    seed: Annotated[int, typer.Option(help="Which cases are drawn.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Compare where teacher and student look on a few cases, as numbers and as maps that bench shows.

    It looks at images of the test split but at no metric: it is no evaluation, and no model may be chosen by it. The
    maps hold images of patients and stay in the folder.
    """
    from medfm_compress import steps
    from medfm_compress.compress.explain.explain import ExplainOptions
    from medfm_compress.compress.teachers.source import TeacherSource

    options = ExplainOptions(
        variant=variant,
        finding=finding,
        cases=cases,
        method=cast("Method", method),
        split=split,
        seed=seed,
        threads=threads,
    )
    sources = tuple(TeacherSource(source=name) for name in teacher)
    explained = steps.explain(bundle, sources, study, options, console.progress, out, student)
    if json:
        console.emit_json({"folder": str(explained.folder), "agreements": explained.agreements})
    else:
        _tell(explained)


def _tell(explained: Explained) -> None:
    console.table(
        ["against the teacher", "method", "cases", "rank correlation", "lowest", "overlap", "lowest"],
        [_row(found) for found in explained.agreements],
    )
    console.say()
    console.say("randomised is the teacher with random weights: agreement that is no higher tells nothing")
    console.say(f"maps, with images of patients: {explained.folder}")


def _row(found: ExplanationAgreement) -> list[str]:
    ranks, overlaps = found.rank_correlation, found.overlap
    figures = (sum(ranks) / len(ranks), min(ranks), sum(overlaps) / len(overlaps), min(overlaps))
    return [found.variant, found.method, str(len(found.cases)), *(f"{value:.2f}" for value in figures)]
