"""``medfm-compress pretrain``: let a network learn from images without labels."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Overwrite, Study
from medfm_compress.cli.command import command
from medfm_compress.cli.next_command import after_pretrain, print_next
from medfm_compress.cli.outputs import check_place
from medfm_compress.step_settings import PretrainStep

if TYPE_CHECKING:
    from medfm_compress.compress.networks.backbone import BackboneCard


@command(skip=("training.freeze_backbone",))
def pretrain(
    step: PretrainStep,
    study: Study,
    out: Annotated[Path, typer.Option(help="Backbone folder to write, for --weights of finetune and distill.")],
    overwrite: Overwrite = False,
) -> None:
    """Pre-train a teacher or a student on images without labels: it learns to fill in hidden squares. Resumes.

    The study's train and unlabelled images are learned from. Give the folder to 'finetune --weights' or
    'distill --weights'. Runs on many devices under 'torchrun --nproc-per-node N -m medfm_compress pretrain ...'.
    """
    check_place(out)
    from medfm_compress import steps

    card = steps.pretrain(study, step, console.progress, out, overwrite=overwrite).card
    console.emit(lambda: _as_json(card, out), lambda: _print_backbone(card, step, study, out))


def _as_json(card: BackboneCard, out: Path) -> dict[str, object]:
    named = {name: getattr(card, name) for name in ("name", "masking", "images", "epochs", "seed", "score")}
    return {"backbone": str(out), **named, "steps": card.provenance.steps}


def _print_backbone(card: BackboneCard, step: PretrainStep, study: Path, out: Path) -> None:
    from medfm_compress.data.open import open_study

    console.say(card.provenance.steps[-1])
    console.say(f"wrote {out}")
    if any(case.target for case in open_study(study).split("train")):
        print_next(after_pretrain(step.model, step.image_size, study, out))
    else:
        console.say(f"go on with a study that has labels: finetune or distill, with --weights {shlex.quote(str(out))}")
