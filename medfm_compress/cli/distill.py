"""``medfm-compress distill``: teach a small student what the teacher knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli import training_options as options
from medfm_compress.cli.model_summary import print_model
from medfm_compress.cli.parse_units import milliseconds, parse_number
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.compress.students.auto_select import Choice

TEACHER = (
    "Model folder, timm:NAME, hf-hub:OWNER/NAME (asks for the network), torchvision:NAME, an .onnx file, a MONAI "
    "bundle, or outputs:FOLDER (cached outputs alone). Several are averaged."
)
STUDENT = "timm name, model folder (e.g. of 'prune'), scaled:width=0.5,depth=0.5 (a copy of the teacher), or auto."


def distill(
    study: Annotated[Path, typer.Argument(help="Study to learn on.")],
    teacher: Annotated[list[str], typer.Option(help=TEACHER)],
    student: Annotated[str, typer.Option(help=STUDENT)],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    teacher_weights: Annotated[
        list[str] | None, typer.Option(help="Weights of a timm or torchvision teacher; the n-th for the n-th teacher.")
    ] = None,
    teacher_labels: Annotated[
        list[str] | None, typer.Option(help="Its labels, in the order of its outputs: a,b,c; likewise repeated.")
    ] = None,
    teacher_spec: Annotated[
        list[str] | None, typer.Option(help="JSON of its ImageSpec, where its file does not say it; likewise.")
    ] = None,
    teacher_licence: Annotated[str, typer.Option(help="Licence of the teacher's weights, where no file says it.")] = "",
    teacher_intended_use: Annotated[str, typer.Option(help="What its publisher says it is for, likewise.")] = "",
    label_map: Annotated[
        list[str] | None, typer.Option("--map", help="THEIRS=OURS: which of its labels means which of the study's.")
    ] = None,
    teacher_precision: Annotated[
        str, typer.Option(help="auto (the fastest that stays faithful here), fp32, bf16 or int8.")
    ] = "auto",
    image_size: Annotated[int, typer.Option(help="Student's input in pixels; 0 is the teacher's.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="Start from local safetensors or a state dict, e.g. of 'pretrain'.")
    ] = None,
    budget: Annotated[str, typer.Option(help="With --student auto: latency of one image, e.g. 10ms.")] = "",
    target: Annotated[str, typer.Option(help="With --student auto: where it will run, e.g. openvino:cpu:int8.")] = (
        "openvino:cpu"
    ),
    threads: Annotated[int, typer.Option(help="With --student auto: threads there.")] = 1,
    loss: Annotated[
        list[str] | None,
        typer.Option(help="NAME=WEIGHT of a term; without any, sigmoid for independent findings, else kl."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the distributions that are compared.")] = 3.0,
    teacher_weight: Annotated[float, typer.Option(help="0 to 1 of a labelled case; its label has the rest.")] = 0.8,
    label_loss: Annotated[str, typer.Option(help="cross-entropy, focal or class-balanced.")] = "cross-entropy",
    views: Annotated[int, typer.Option(help="Augmented views that the teacher answers on, once.")] = 6,
    views_seed: Annotated[int, typer.Option(help="Of the views: runs that share it share the cached answers.")] = 0,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled/--no-unlabelled", help="Learn from the study's unlabelled images too.")
    ] = True,
    more: Annotated[
        list[Path] | None, typer.Option(help="Another study, learned from without its labels; may be repeated.")
    ] = None,
    label_weight_column: Annotated[str, typer.Option(help="Column that multiplies a case's label weight.")] = "",
    teacher_weight_column: Annotated[str, typer.Option(help="Column that multiplies its teacher weight.")] = "",
    quantize: Annotated[
        str, typer.Option(help="int8: train with the values that INT8 will have; 'quantize' then takes them over.")
    ] = "",
    modality: options.Modality = "radiograph",
    epochs: options.Epochs = 30,
    batch_size: options.BatchSize = 32,
    micro_batch: options.MicroBatch = 0,
    learning_rate: options.LearningRate = 2e-3,
    ema: options.Ema = 0.995,
    patience: options.Patience = 10,
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    compiled: options.Compile = False,
    tensorboard: options.TensorBoard = "",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Distil a teacher's answers, and the labels, into a student. Resumes where it was interrupted.

    Runs on many devices under 'torchrun --nproc-per-node N -m medfm_compress distill ...'.
    """
    from medfm_compress import steps
    from medfm_compress.compress.distillation.options import Distillation
    from medfm_compress.compress.teachers.open import TeacherSource
    from medfm_compress.compress.training.config import TrainingConfig
    from medfm_compress.recipe import DistillStep

    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        micro_batch=micro_batch,
        learning_rate=learning_rate,
        ema=ema,
        patience=patience,
        precision=precision,
        device=device,
        compile=compiled,
        modality=modality,
        tensorboard=tensorboard,
        seed=seed,
    )
    distillation = Distillation(
        losses={name: parse_number(weight, f"--loss {name}") for name, weight in pairs(loss, "--loss", "1")},
        temperature=temperature,
        teacher_weight=teacher_weight,
        label_loss=label_loss,
        views=views,
        views_seed=views_seed,
        unlabelled=unlabelled,
        label_weight_column=label_weight_column,
        teacher_weight_column=teacher_weight_column,
        teacher_precision=teacher_precision,
        quantize=quantize,
    )
    said = zip(
        teacher,
        one_each(teacher_weights, teacher, "--teacher-weights"),
        one_each(teacher_labels, teacher, "--teacher-labels"),
        one_each(teacher_spec, teacher, "--teacher-spec"),
        strict=True,
    )
    sources = tuple(
        TeacherSource(
            source=source,
            weights=its_weights,
            labels=tuple(part.strip() for part in its_labels.split(",") if part.strip()),
            spec=its_spec,
            mapping=dict(pairs(label_map, "--map")),
            licence=teacher_licence,
            intended_use=teacher_intended_use,
        )
        for source, its_weights, its_labels, its_spec in said
    )
    step = DistillStep(
        student=student,
        weights=str(weights) if weights else "",
        image_size=image_size,
        budget_ms=milliseconds(budget, "--budget") if budget else 0.0,
        target=target,
        threads=threads,
        more=tuple(str(path) for path in more or ()),
        training=config,
        distillation=distillation,
    )
    choices: list[Choice] = []

    def on_choice(choice: Choice) -> None:
        choices.append(choice)
        if not json:
            print_choice(choice)

    result = steps.distill(study, sources, step, console.progress, out, on_choice)
    print_model(result, out, json, {"choice": choices[0]} if choices else {})


def print_choice(choice: Choice) -> None:
    """Which network was chosen, of which."""
    console.say(str(choice))
    rows = [
        (
            each.name,
            f"{each.macs / 1e6:.0f}" if each.macs else "-",
            f"{each.parameters / 1e6:.1f}" if each.parameters else "-",
            "-" if each.p50_ms is None else f"{each.p50_ms:.2f}",
            "-" if each.p99_ms is None else f"{each.p99_ms:.2f}",
            each.reason,
        )
        for each in choice.candidates
    ]
    console.table(("network", "M MACs", "M parameters", "p50 ms", "p99 ms", ""), rows, left=(0, 5))
    sys.stdout.flush()  # before the training, also where a file or a pipe listens


def one_each(given: list[str] | None, teachers: list[str], option: str) -> list[str]:
    """A value a teacher, empty for ``-``; nothing given is nothing for each.

    Raises:
        InputError: some values, but not one for each.
    """
    if not given:
        return [""] * len(teachers)
    if len(given) != len(teachers):
        raise InputError(
            f"{option} is given {len(given)} times for {len(teachers)} teachers; give one for each, in their order, "
            "and '-' where a teacher needs none"
        )
    return ["" if value == "-" else value for value in given]


def pairs(given: list[str] | None, option: str, default: str = "") -> list[tuple[str, str]]:
    """``NAME=VALUE`` of a repeated option; ``default`` where a name stands alone.

    Raises:
        InputError: no value and no default, or a name twice.
    """
    found: dict[str, str] = {}
    for text in given or ():
        name, sign, value = text.partition("=")
        value = value if sign else default
        if not name or not value:
            raise InputError(f"{option} is {text!r}; give NAME=VALUE")
        if name in found:
            raise InputError(f"{option} names {name!r} twice; give it once")
        found[name] = value
    return list(found.items())
