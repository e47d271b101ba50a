"""``medfm-compress demo``: the whole job on images that the project draws itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.command import command
from medfm_compress.cli.compress import EXIT_CODES, finished_as_json, print_finished
from medfm_compress.cli.outputs import check_place

if TYPE_CHECKING:
    from medfm_compress.pipeline import Finished


@command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of the synthetic study and of training.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what another seed or version made in --out.")
    ] = False,
) -> None:
    """Draw a synthetic study, train a teacher, compress it, judge it, and say how to predict: some minutes."""
    check_place(out)
    from medfm_compress.demo import run_demo

    finished, image = run_demo(out, seed, console.progress, overwrite=overwrite)
    console.emit(lambda: finished_as_json(finished), lambda: _print_demo(finished, image, out))
    raise typer.Exit(EXIT_CODES[finished.verdict.outcome])


def _print_demo(finished: Finished, image: Path, out: Path) -> None:
    print_finished(finished, out / "policy.yaml")
    console.say()
    console.say("predict on one of its DICOM files, without PyTorch:")
    console.say(f"  medfm-compress run {finished.bundle} {image}")
