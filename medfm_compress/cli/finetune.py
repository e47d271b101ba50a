"""``medfm-compress finetune``: train or fine-tune a teacher on a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from medfm_compress.cli import console
from medfm_compress.cli import training_options as options
from medfm_compress.cli.model_summary import print_model
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.runtime.image_spec import Colour


def finetune(
    study: Annotated[Path, typer.Argument(help="Study: a folder with cases.csv, a csv, a folder a class, an .npz.")],
    model: Annotated[str, typer.Option(help="timm name, or hf-hub:owner/name (this asks for the network).")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    weights: Annotated[
        Path | None, typer.Option(help="Start from local safetensors or a state dict, e.g. of 'pretrain'.")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Network input in pixels, 32 to 1024.")] = 224,
    colour: Annotated[str, typer.Option(help="grey or rgb; auto looks at the study.")] = "auto",
    freeze_backbone: Annotated[bool, typer.Option("--freeze-backbone", help="Train the classifier only.")] = False,
    label_loss: Annotated[str, typer.Option(help="cross-entropy, focal or class-balanced.")] = "cross-entropy",
    unbalanced: Annotated[bool, typer.Option("--unbalanced", help="Do not weight the loss by class.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of the weights; every student inherits it.")] = "",
    intended_use: Annotated[str, typer.Option(help="What the weights' publisher says they are for.")] = "",
    modality: options.Modality = "radiograph",
    epochs: options.Epochs = 12,
    batch_size: options.BatchSize = 32,
    micro_batch: options.MicroBatch = 0,
    learning_rate: options.LearningRate = 1e-3,
    ema: options.Ema = 0.995,
    patience: options.Patience = 5,
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    compiled: options.Compile = False,
    tensorboard: options.TensorBoard = "",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Train a teacher on a study's train split; the epoch with the best validation AUROC is kept. Resumes.

    Without epochs it packages the weights as they are. Runs on many devices under
    'torchrun --nproc-per-node N -m medfm_compress finetune ...'.
    """
    from medfm_compress import steps
    from medfm_compress.compress.training.config import TrainingConfig
    from medfm_compress.recipe import FinetuneStep

    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        micro_batch=micro_batch,
        learning_rate=learning_rate,
        ema=ema,
        patience=patience,
        freeze_backbone=freeze_backbone,
        precision=precision,
        device=device,
        compile=compiled,
        modality=modality,
        tensorboard=tensorboard,
        seed=seed,
    )
    step = FinetuneStep(
        model=model,
        weights=str(weights) if weights else "",
        image_size=image_size,
        colour=parse_colour(colour),
        balanced=not unbalanced,
        label_loss=label_loss,
        licence=licence,
        intended_use=intended_use,
        training=config,
    )
    result = steps.finetune(study, step, console.progress, out)
    print_model(result, out, json)


def parse_colour(text: str) -> Colour | None:
    """``auto`` is None: look at the study.

    Raises:
        InputError: neither auto, grey nor rgb.
    """
    if text not in {"auto", "grey", "rgb"}:
        raise InputError(f"colour is {text!r}; it must be auto, grey or rgb")
    return None if text == "auto" else cast("Colour", text)
