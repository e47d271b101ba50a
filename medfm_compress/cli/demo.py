"""``medfm-compress demo``: the whole job on images that the project draws itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.compress import EXIT_CODES, print_finished


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of the synthetic study and of training.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Draw a synthetic study, train a teacher, compress it, judge it, and say how to predict. About two minutes."""
    from medfm_compress.demo import run_demo

    finished, image = run_demo(out, seed, console.progress)
    print_finished(finished, json)
    if not json:
        console.say()
        console.say("predict on one of its DICOM files, without PyTorch:")
        console.say(f"  medfm-compress run {finished.bundle} {image}")
    raise typer.Exit(EXIT_CODES[finished.verdict.outcome])
