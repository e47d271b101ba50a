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
def init(out: Annotated[Path, typer.Argument(help="YAML file to write; there must be none.", metavar="OUT")]) -> None:
    """Write a commented recipe, and its JSON schema beside it for editors that complete YAML."""
    from medfm_compress.cli.recipe_template import write_starter

    paths = write_starter(out)
    console.emit(lambda: {"files": list(map(str, paths))}, lambda: _print_next(paths))


@app.command()
@command()
def schema() -> None:
    """Print the JSON schema of recipes."""
    from medfm_compress.cli.recipe_schema import recipe_schema

    console.emit_json(recipe_schema())


def _print_next(paths: tuple[Path, ...]) -> None:
    for path in paths:
        console.say(f"wrote {path}")
    console.say(f"fill in study, teacher and policy, then run 'medfm-compress compress {paths[0]}'")
