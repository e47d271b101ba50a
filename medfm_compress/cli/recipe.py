"""``medfm-compress recipe init`` and ``recipe schema``: a commented recipe to start from, and the form of every one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.command import command

app = typer.Typer(help="Begin a recipe, or print the JSON schema of recipes.", no_args_is_help=True)


@app.command()
@command()
def init(
    out: Annotated[Path, typer.Argument(help="YAML file to write; there must be none.", metavar="OUT")],
    anomaly: Annotated[
        bool, typer.Option("--anomaly", help="For a model that tells how unlike the normal cases an image is.")
    ] = False,
) -> None:
    """Write a commented recipe, and its JSON schema beside it for editors that complete YAML."""
    from medfm_compress.cli.recipe_template import ANOMALY_STARTER, STARTER, write_starter

    paths = write_starter(out, ANOMALY_STARTER if anomaly else STARTER)
    console.emit(lambda: {"files": list(map(str, paths))}, lambda: _print_next(paths, anomaly))


@app.command()
@command()
def schema() -> None:
    """Print the JSON schema of recipes."""
    from medfm_compress.cli.recipe_schema import recipe_schema

    console.emit_json(recipe_schema())


def _print_next(paths: tuple[Path, ...], anomaly: bool) -> None:
    for path in paths:
        console.say(f"wrote {path}")
    models = "normal labels, teachers" if anomaly else "teacher"
    console.say(f"fill in study, {models} and policy, then run 'medfm-compress compress {paths[0]}'")
