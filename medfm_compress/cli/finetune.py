"""``medfm-compress finetune``: train or fine-tune a teacher on a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from medfm_compress.cli import console
from medfm_compress.cli.told import tell_model
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.runtime.image_spec import Colour


def finetune(
    study: Annotated[Path, typer.Argument(help="Study: a folder with cases.csv, a csv, a folder a class, an .npz.")],
    model: Annotated[str, typer.Option(help="timm name, or hf-hub:owner/name (this asks for the network).")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    weights: Annotated[Path | None, typer.Option(help="Start from local safetensors or a state dict.")] = None,
    image_size: Annotated[int, typer.Option(help="Network input in pixels, 32 to 1024.")] = 224,
    colour: Annotated[str, typer.Option(help="grey or rgb; auto looks at the study.")] = "auto",
    modality: Annotated[str, typer.Option(help="radiograph, dermoscopy, histology, endoscopy or none.")] = "radiograph",
    epochs: Annotated[int, typer.Option(help="0 packages the weights as they are.")] = 12,
    batch_size: Annotated[int, typer.Option(help="Cases a step.")] = 32,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs without a better validation AUROC.")] = 5,
    freeze_backbone: Annotated[bool, typer.Option("--freeze-backbone", help="Train the classifier only.")] = False,
    unbalanced: Annotated[bool, typer.Option("--unbalanced", help="Do not weight the loss by class.")] = False,
    precision: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    licence: Annotated[str, typer.Option(help="Licence of the weights; every student inherits it.")] = "",
    seed: Annotated[int, typer.Option(help="Of views and batches.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Train a teacher on a study's train split; the epoch with the best validation AUROC is kept. Resumes."""
    from medfm_compress import steps
    from medfm_compress.compress.old_training import TrainingConfig
    from medfm_compress.recipe import FinetuneStep

    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        patience=patience,
        freeze_backbone=freeze_backbone,
        precision=precision,
        device=device,
        modality=modality,
        seed=seed,
    )
    step = FinetuneStep(
        model=model,
        weights=str(weights) if weights else "",
        image_size=image_size,
        colour=parse_colour(colour),
        balanced=not unbalanced,
        licence=licence,
        training=config,
    )
    result = steps.finetune(study, step, console.progress, out)
    tell_model(result, out, json)


def parse_colour(text: str) -> Colour | None:
    """``auto`` is None: look at the study.

    Raises:
        InputError: neither auto, grey nor rgb.
    """
    if text not in {"auto", "grey", "rgb"}:
        raise InputError(f"colour is {text!r}; it must be auto, grey or rgb")
    return None if text == "auto" else cast("Colour", text)
