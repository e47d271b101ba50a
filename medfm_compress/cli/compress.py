"""``medfm-compress compress``: the whole job of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import STUDY_KINDS
from medfm_compress.cli.command import command
from medfm_compress.cli.outputs import check_place
from medfm_compress.runtime.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK

if TYPE_CHECKING:
    from medfm_compress.pipeline import Finished
    from medfm_compress.runtime.bundle.manifest import Manifest

EXIT_CODES = {"pass": EXIT_OK, "fail": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}


@command()
def compress(
    recipe: Annotated[Path, typer.Argument(help="YAML; 'medfm-compress recipe init' writes one.", metavar="RECIPE")],
    study: Annotated[Path | None, typer.Option(help=f"In place of the recipe's own. {STUDY_KINDS}")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for everything; default: runs/NAME.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what other settings, inputs or versions made in --out.")
    ] = False,
) -> None:
    """Run a whole recipe: teacher, student, bundle, INT8, report, verdict. A finished step is not repeated.

    Whatever is there of other settings, inputs or versions is replaced with --overwrite only.
    """
    if out is not None:
        check_place(out)
    from medfm_compress import pipeline
    from medfm_compress.recipe import load_recipe

    loaded = load_recipe(recipe)
    folder = out or Path("runs") / loaded.recipe.name
    finished = pipeline.compress(loaded, study, folder, console.progress, overwrite=overwrite)
    console.emit(lambda: finished_as_json(finished), lambda: print_finished(finished, Path(loaded.recipe.policy)))
    raise typer.Exit(EXIT_CODES[finished.verdict.outcome])


def finished_as_json(finished: Finished) -> dict[str, Any]:
    """What ``--json`` prints of a whole job."""
    from medfm_compress.cli.bench import report_as_json
    from medfm_compress.cli.int8_summary import why_no_int8

    bundle = {"bundle": str(finished.bundle), "no_int8": why_no_int8(_manifest(finished))}
    return bundle | report_as_json(finished.report, finished.verdict, finished.report_folder)


def print_finished(finished: Finished, policy: Path) -> None:
    """The table, the verdict and where everything is."""
    from medfm_compress.cli.bench import print_report
    from medfm_compress.cli.int8_summary import print_no_int8

    print_report(finished.report, finished.verdict, finished.report_folder, policy, finished.bundle, recorded=True)
    print_no_int8(_manifest(finished))
    console.say(f"bundle:  {finished.bundle}")


def _manifest(finished: Finished) -> Manifest:
    from medfm_compress.runtime.bundle.bundle import Bundle

    return Bundle.open(finished.bundle).manifest
