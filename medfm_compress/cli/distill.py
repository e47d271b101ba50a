"""``medfm-compress distill``: teach a small student what the teacher knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli.told import tell_model


def distill(
    study: Annotated[Path, typer.Argument(help="Study to learn on.")],
    teacher: Annotated[Path, typer.Option(help="Model folder of the teacher.")],
    student: Annotated[str, typer.Option(help="timm name, or a model folder (e.g. of a pruned network).")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    image_size: Annotated[int, typer.Option(help="Student's input in pixels; 0 is the teacher's.")] = 0,
    weights: Annotated[Path | None, typer.Option(help="Start from local safetensors or a state dict.")] = None,
    temperature: Annotated[float, typer.Option(help="Of the distillation term.")] = 3.0,
    teacher_weight: Annotated[float, typer.Option(help="0 to 1; the labels have the rest.")] = 0.8,
    views: Annotated[int, typer.Option(help="Augmented views that the teacher answers on, once.")] = 6,
    modality: Annotated[str, typer.Option(help="radiograph, dermoscopy, histology, endoscopy or none.")] = "radiograph",
    epochs: Annotated[int, typer.Option(help="At least 1.", min=1)] = 30,
    batch_size: Annotated[int, typer.Option(help="Cases a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without a better validation AUROC.")] = 10,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of views and batches.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Distil a teacher's logits, and the labels, into a student. Resumes where it was interrupted."""
    from medfm_compress import steps
    from medfm_compress.compress.distill import Distillation
    from medfm_compress.compress.old_training import TrainingConfig
    from medfm_compress.recipe import DistillStep

    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        precision=precision,
        device=device,
        modality=modality,
        seed=seed,
    )
    step = DistillStep(
        student=student,
        weights=str(weights) if weights else "",
        image_size=image_size,
        training=config,
        distillation=Distillation(temperature=temperature, teacher_weight=teacher_weight, views=views),
    )
    result = steps.distill(study, teacher, step, console.progress, out)
    tell_model(result, out, json)
