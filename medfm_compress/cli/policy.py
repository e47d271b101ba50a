"""``medfm-compress policy init``: a commented policy to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.command import command
from medfm_compress.runtime.errors import InputError

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
    anomaly: Annotated[
        bool, typer.Option("--anomaly", help="For an anomaly score: AUROC, false alarms, and places.")
    ] = False,
) -> None:
    """Write a commented policy, and its JSON schema beside it for editors that complete YAML."""
    from medfm_compress.bench.gate.policy_template import ANOMALY_STARTER, SEGMENTATION_STARTER, STARTER, write_starter

    if segmentation and anomaly:
        raise InputError("--segmentation and --anomaly are two kinds of network; give one of them")
    paths = write_starter(out, SEGMENTATION_STARTER if segmentation else ANOMALY_STARTER if anomaly else STARTER)
    console.emit(lambda: {"files": list(map(str, paths))}, lambda: _print_next(paths))


def _print_next(paths: tuple[Path, ...]) -> None:
    for path in paths:
        console.say(f"wrote {path}")
    console.say("choose the margins, then commit the policy before any model sees a test case")
