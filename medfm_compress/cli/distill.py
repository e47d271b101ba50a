"""``medfm-compress distill``: teach a small student what the teacher knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from medfm_compress.cli import console
from medfm_compress.cli.arguments import ModelOut, Overwrite, Study
from medfm_compress.cli.command import command
from medfm_compress.cli.model_summary import print_model
from medfm_compress.cli.next_command import after_distill
from medfm_compress.cli.outputs import check_place
from medfm_compress.cli.parse_units import parse_pairs
from medfm_compress.cli.streams import flush_out
from medfm_compress.cli.teacher_options import (
    TeacherLabels,
    TeacherOutputs,
    TeacherSpec,
    TeacherWeights,
    teacher_sources,
    with_weights,
)
from medfm_compress.step_settings import DistillStep

if TYPE_CHECKING:
    from medfm_compress.compress.students.auto_select import Choice

TEACHER = (
    "Model folder, timm:NAME, hf-hub:OWNER/NAME (asks for the network), torchvision:NAME, an .onnx file, a MONAI "
    "bundle, or outputs:FOLDER (cached outputs alone). Several are averaged."
)


@command(skip=("training.freeze_backbone",))
def distill(
    teachers: Annotated[list[str], typer.Argument(help=TEACHER, metavar="TEACHER")],
    step: DistillStep,
    study: Study,
    out: ModelOut,
    overwrite: Overwrite = False,
    teacher_weights: TeacherWeights = None,
    teacher_labels: TeacherLabels = None,
    teacher_spec: TeacherSpec = None,
    teacher_outputs: TeacherOutputs = None,
    teacher_licence: Annotated[str, typer.Option(help="Licence of the teacher's weights, where no file says it.")] = "",
    teacher_intended_use: Annotated[str, typer.Option(help="What its publisher says it is for, likewise.")] = "",
    label_map: Annotated[
        list[str] | None, typer.Option("--map", help="THEIRS=OURS: which of its labels means which of the study's.")
    ] = None,
) -> None:
    """Distil a teacher's outputs, and the labels, into a student. Resumes where it was interrupted.

    Runs on many devices under 'torchrun --nproc-per-node N -m medfm_compress distill ...'.
    """
    check_place(out)
    from medfm_compress import steps

    sources = tuple(
        msgspec.structs.replace(
            source,
            mapping=parse_pairs(label_map, "--map"),
            licence=teacher_licence,
            intended_use=teacher_intended_use,
        )
        for source in with_weights(
            teacher_sources(teachers, teacher_spec, teacher_labels, teacher_outputs), teacher_weights
        )
    )
    choices: list[Choice] = []

    def on_choice(choice: Choice) -> None:
        choices.append(choice)
        if not console.wants_json():
            print_choice(choice)

    model = steps.distill(study, sources, step, console.progress, out, on_choice, overwrite=overwrite)
    print_model(model, out, after_distill(out, study), {"choice": choices[0]} if choices else {})


def print_choice(choice: Choice) -> None:
    """Which network was chosen, of which."""
    console.say(str(choice))
    rows = [
        (
            candidate.name,
            f"{candidate.macs / 1e6:.0f}" if candidate.macs else "-",
            f"{candidate.parameters / 1e6:.1f}" if candidate.parameters else "-",
            "-" if candidate.p50_ms is None else f"{candidate.p50_ms:.2f}",
            "-" if candidate.p99_ms is None else f"{candidate.p99_ms:.2f}",
            candidate.reason,
        )
        for candidate in choice.candidates
    ]
    console.table(("network", "M MACs", "M parameters", "p50 ms", "p99 ms", ""), rows, left=(0, 5), sentences=True)
    flush_out()  # before the training, also where a file or a pipe listens
