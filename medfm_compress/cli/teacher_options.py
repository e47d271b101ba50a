"""What a teacher's file does not say of itself, as options of every command that opens one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from msgspec.structs import replace

from medfm_compress.compress.teachers.source import Outputs, TeacherSource
from medfm_compress.runtime.errors import InputError

TeacherWeights = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher-weights", help="Weights of a teacher that is named by its network; the n-th for the n-th teacher."
    ),
]
TeacherSpec = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher-spec",
        help="YAML or JSON of what its file does not say: ImageSpec, labels, outputs; the n-th for the n-th teacher.",
    ),
]
TeacherLabels = Annotated[
    list[str] | None,
    typer.Option("--teacher-labels", help="Its labels, in the order of its outputs: a,b,c; likewise repeated."),
]
TeacherOutputs = Annotated[
    list[str] | None,
    typer.Option(
        "--teacher-outputs",
        help="What an .onnx file gives, where its graph does not prove it: logits, softmax or sigmoid; likewise.",
        metavar="CHOICE",
    ),
]


def teacher_sources(
    teachers: list[str], specs: list[str] | None, labels: list[str] | None, outputs: list[str] | None
) -> tuple[TeacherSource, ...]:
    """The teachers with what was said of them; raises InputError as `per_teacher`, or for unknown outputs."""
    rows = zip(
        teachers,
        per_teacher(specs, teachers, "--teacher-spec"),
        per_teacher(labels, teachers, "--teacher-labels"),
        map(_outputs, per_teacher(outputs, teachers, "--teacher-outputs")),
        strict=True,
    )
    return tuple(
        TeacherSource(
            source=source,
            spec=spec,
            labels=tuple(part.strip() for part in listed.split(",") if part.strip()),
            outputs=gives,
        )
        for source, spec, listed, gives in rows
    )


def with_weights(sources: tuple[TeacherSource, ...], weights: list[str] | None) -> tuple[TeacherSource, ...]:
    """The teachers with the files of their weights; raises InputError as `per_teacher`."""
    files = per_teacher(weights, [source.source for source in sources], "--teacher-weights")
    return tuple(replace(source, weights=file) for source, file in zip(sources, files, strict=True))


def onnx_source(
    model: Path, specs: list[str] | None, labels: list[str] | None, outputs: list[str] | None
) -> TeacherSource | None:
    """What was said of a model that is an ONNX file; None for another, of which nothing of it may be said.

    Raises:
        InputError: an option of ONNX files was given for another model, or several times.
    """
    if model.suffix.lower() == ".onnx":
        return teacher_sources([str(model)], specs, labels, outputs)[0]
    for option, values in (("spec", specs), ("labels", labels), ("outputs", outputs)):
        if values:
            raise InputError(
                f"{model} says its {option} itself; --teacher-{option} goes with an .onnx file: leave it out"
            )
    return None


def per_teacher(values: list[str] | None, teachers: list[str], option: str) -> list[str]:
    """A value a teacher, empty for ``-``; no values are an empty one for every teacher.

    Raises:
        InputError: some values, but not one for every teacher.
    """
    if not values:
        return [""] * len(teachers)
    if len(values) != len(teachers):
        raise InputError(
            f"{option} is given {len(values)} times for {len(teachers)} teachers; give one for each, in their order, "
            "and '-' where a teacher needs none"
        )
    return ["" if value == "-" else value for value in values]


def _outputs(text: str) -> Outputs:
    if text not in get_args(Outputs):
        raise InputError(f"--teacher-outputs is {text!r}; it must be logits, softmax or sigmoid")
    return cast(Outputs, text)
