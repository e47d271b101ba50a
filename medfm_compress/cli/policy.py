"""``medfm-compress policy init``: a commented policy to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.command import command

app = typer.Typer(help="Begin a policy.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Begin a policy: what must hold before a bundle ships."""


@app.command()
@command()
def init(
    out: Annotated[Path, typer.Argument(help="YAML file to write; there must be none.", metavar="OUT")],
    segmentation: Annotated[
        bool, typer.Option("--segmentation", help="For a network that draws masks: Dice, lesions and distances.")
    ] = False,
) -> None:
    """Write a commented policy, and its JSON schema beside it for editors that complete YAML."""
    from medfm_compress.bench.gate.policy_template import write_starter

    paths = write_starter(out, segmentation=segmentation)
    console.emit(lambda: {"files": list(map(str, paths))}, lambda: _print_next(paths))


def _print_next(paths: tuple[Path, ...]) -> None:
    for path in paths:
        console.say(f"wrote {path}")
    console.say("choose the margins, then commit the policy before any model sees a test case")
