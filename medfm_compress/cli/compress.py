"""``medfm-compress compress``: the whole job of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.runtime.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK

if TYPE_CHECKING:
    from medfm_compress.pipeline import Finished

EXIT_CODES = {"pass": EXIT_OK, "fail": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}


def compress(
    recipe: Annotated[Path, typer.Argument(help="The recipe, YAML.")],
    study: Annotated[Path | None, typer.Option(help="Study, in place of the recipe's own.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for everything; default: runs/NAME.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Run a whole recipe: teacher, student, bundle, INT8, report, verdict. A finished step is not repeated."""
    from medfm_compress import pipeline
    from medfm_compress.recipe import load_recipe

    loaded = load_recipe(recipe)
    folder = out or Path("runs") / loaded.recipe.name
    finished = pipeline.compress(loaded, study, folder, console.progress)
    print_finished(finished, json)
    raise typer.Exit(EXIT_CODES[finished.verdict.outcome])


def print_finished(finished: Finished, as_json: bool) -> None:
    """The table, the verdict and where everything is."""
    from medfm_compress.cli.bench import describe_report, report_as_json

    if as_json:
        bundle = {"bundle": str(finished.bundle)}
        console.emit_json(bundle | report_as_json(finished.report, finished.verdict, finished.report_folder))
        return
    describe_report(finished.report, finished.verdict, finished.report_folder)
    console.say(f"bundle:  {finished.bundle}")
