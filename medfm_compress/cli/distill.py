"""``medfm-compress distill``: teach a small student what the teacher knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli import training_options as options
from medfm_compress.cli.told import tell_model
from medfm_compress.runtime.errors import InputError

TEACHER = (
    "Model folder, timm:NAME, hf-hub:OWNER/NAME (asks for the network), torchvision:NAME, an .onnx file, a MONAI "
    "bundle, or answers:FOLDER (cached outputs alone). Several are averaged."
)
STUDENT = "timm name, model folder (e.g. of 'prune'), scaled:width=0.5,depth=0.5 (a copy of the teacher), or auto."


def distill(
    study: Annotated[Path, typer.Argument(help="Study to learn on.")],
    teacher: Annotated[list[str], typer.Option(help=TEACHER)],
    student: Annotated[str, typer.Option(help=STUDENT)],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    teacher_weights: Annotated[str, typer.Option(help="Weights of a timm or torchvision teacher.")] = "",
    teacher_labels: Annotated[str, typer.Option(help="Its labels, in the order of its outputs: a,b,c.")] = "",
    teacher_spec: Annotated[str, typer.Option(help="JSON of its ImageSpec, where the file does not say it.")] = "",
    label_map: Annotated[
        list[str] | None, typer.Option("--map", help="THEIRS=OURS: which of its labels means which of the study's.")
    ] = None,
    teacher_precision: Annotated[
        str, typer.Option(help="auto (the fastest that stays faithful here), fp32 or bf16.")
    ] = "auto",
    image_size: Annotated[int, typer.Option(help="Student's input in pixels; 0 is the teacher's.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="Start from local safetensors or a state dict, e.g. of 'pretrain'.")
    ] = None,
    budget: Annotated[str, typer.Option(help="With --student auto: latency of one image, e.g. 10ms.")] = "",
    target: Annotated[str, typer.Option(help="With --student auto: where it will run.")] = "openvino:cpu",
    threads: Annotated[int, typer.Option(help="With --student auto: threads there.")] = 1,
    loss: Annotated[
        list[str] | None, typer.Option(help="NAME=WEIGHT of a term; without any, the default for the two families.")
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
    from medfm_compress.compress.distillation import Distillation
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
    )
    sources = tuple(
        TeacherSource(
            source=source,
            weights=teacher_weights,
            labels=tuple(part.strip() for part in teacher_labels.split(",") if part.strip()),
            spec=teacher_spec,
            mapping=dict(pairs(label_map, "--map")),
        )
        for source in teacher
    )
    step = DistillStep(
        student=student,
        weights=str(weights) if weights else "",
        image_size=image_size,
        budget_ms=parse_milliseconds(budget),
        target=target,
        threads=threads,
        more=tuple(str(path) for path in more or ()),
        training=config,
        distillation=distillation,
    )
    result = steps.distill(study, sources, step, console.progress, out)
    tell_model(result, out, json)


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


def parse_number(text: str, option: str) -> float:
    """A number; raises InputError for anything else."""
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} is {text!r}; give a number") from None


def parse_milliseconds(text: str) -> float:
    """``10ms``, ``0.02s`` or a plain number of milliseconds; 0 for an empty text.

    Raises:
        InputError: anything else, or a time not above 0.
    """
    if not text:
        return 0.0
    plain, factor = text.strip().lower(), 1.0
    if plain.endswith("ms"):
        plain = plain[:-2]
    elif plain.endswith("s"):
        plain, factor = plain[:-1], 1000.0
    value = parse_number(plain.strip(), "--budget") * factor
    if not value > 0:
        raise InputError(f"--budget is {text!r}; give a time above 0, e.g. 10ms")
    return value
