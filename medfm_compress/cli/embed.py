"""``medfm-compress embed``: distil features into a small encoder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import NormalLabels, Overwrite, Study
from medfm_compress.cli.command import command
from medfm_compress.cli.named_teachers import NamedTeachers, encoder_sources
from medfm_compress.cli.next_command import command_line, print_next
from medfm_compress.cli.outputs import check_place
from medfm_compress.step_settings import EmbedStep

if TYPE_CHECKING:
    from medfm_compress.compress.networks.encoder_folder import EncoderCard

TEACHER = (
    "Model folder, encoder folder, backbone folder of 'pretrain', or timm name with --teacher-weights. Of several the "
    "features are learned together."
)


@command(skip=("training.freeze_backbone", "training.backbone_rate"))
def embed(
    teachers: Annotated[list[str], typer.Argument(help=TEACHER, metavar="TEACHER")],
    named: NamedTeachers,
    step: EmbedStep,
    study: Study,
    out: Annotated[Path, typer.Option(help="Encoder folder to write, for 'anomaly fit'.", metavar="FOLDER")],
    normal: NormalLabels = None,
    overwrite: Overwrite = False,
) -> None:
    """Distil the features of large networks into a small encoder, at several nested lengths. Resumes.

    Images of train and unlabelled ones are learned from, with --normal only normal ones; labels are not read otherwise.
    Each --length of the embedding is taught what the whole is, so that 'anomaly fit' may take any of them.
    """
    check_place(out)
    from medfm_compress import steps

    sources = encoder_sources(tuple(teachers), named)
    stored = steps.embed(study, tuple(normal or ()), sources, step, console.progress, out, overwrite=overwrite)
    card = stored.card
    console.emit(lambda: _as_json(card, out), lambda: _print(card, out, study, tuple(normal or ())))


def _as_json(card: EncoderCard, out: Path) -> dict[str, object]:
    return {"encoder": str(out), "name": card.name, "lengths": card.lengths, "steps": card.provenance.steps}


def _print(card: EncoderCard, out: Path, study: Path, normal: tuple[str, ...]) -> None:
    console.say(card.provenance.steps[-1])
    console.say(f"wrote {out}")
    if normal:
        labels = [word for label in normal for word in ("--normal", label)]
        print_next(command_line("anomaly", "fit", out, "--study", study, *labels, "--out", f"{out}-anomaly"))
    else:
        console.say(f"go on with 'medfm-compress anomaly fit {shlex.quote(str(out))}' and the study's --normal labels")
