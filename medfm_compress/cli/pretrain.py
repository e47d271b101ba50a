"""``medfm-compress pretrain``: let a network learn from images without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.cli import training_options as options
from medfm_compress.cli.finetune import parse_colour


def pretrain(
    study: Annotated[Path, typer.Argument(help="Study; its train and unlabelled images are learned from.")],
    model: Annotated[str, typer.Option(help="timm name, or hf-hub:owner/name (this asks for the network).")],
    out: Annotated[Path, typer.Option(help="Backbone folder to write, for --weights of finetune and distill.")],
    more: Annotated[
        list[Path] | None, typer.Option(help="Another study whose images are learned from; may be repeated.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from local safetensors, a state dict, or a backbone folder.")
    ] = None,
    image_size: Annotated[int, typer.Option(help="Network input in pixels, 32 to 1024.")] = 224,
    colour: Annotated[str, typer.Option(help="grey or rgb; auto looks at the study.")] = "auto",
    method: Annotated[str, typer.Option(help="mae (plain ViTs), simmim (any network), or auto.")] = "auto",
    mask_ratio: Annotated[
        float | None, typer.Option(help="Fraction that is hidden; by default 0.75 for mae, 0.6 for simmim.")
    ] = None,
    mask_patch: Annotated[
        int, typer.Option(help="Side of the hidden squares in pixels; 0 leaves it to the method.")
    ] = 0,
    licence: Annotated[str, typer.Option(help="Licence of the weights that it starts from.")] = "",
    intended_use: Annotated[str, typer.Option(help="What their publisher says they are for.")] = "",
    modality: options.Modality = "radiograph",
    epochs: options.Epochs = 100,
    batch_size: options.BatchSize = 64,
    micro_batch: options.MicroBatch = 0,
    learning_rate: options.LearningRate = 1e-3,
    ema: options.Ema = 0.995,
    patience: options.Patience = 0,
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    compiled: options.Compile = False,
    tensorboard: options.TensorBoard = "",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Pre-train a teacher or a student on images without labels: it learns to fill in hidden squares. Resumes.

    Give the folder to 'finetune --weights' or 'distill --weights'. Runs on many devices under
    'torchrun --nproc-per-node N -m medfm_compress pretrain ...'.
    """
    from medfm_compress import steps
    from medfm_compress.compress.networks.backbone import Masking
    from medfm_compress.compress.training.config import TrainingConfig
    from medfm_compress.recipe import PretrainStep

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
    step = PretrainStep(
        model=model,
        weights=str(weights) if weights else "",
        image_size=image_size,
        colour=parse_colour(colour),
        more=tuple(str(path) for path in more or ()),
        licence=licence,
        intended_use=intended_use,
        training=config,
        masking=Masking(method=method, ratio=mask_ratio, patch_px=mask_patch),
    )
    card = steps.pretrain(study, step, console.progress, out).card
    if json:
        text = {name: getattr(card, name) for name in ("name", "masking", "images", "epochs", "seed", "score")}
        console.emit_json({"backbone": str(out), **text, "steps": card.provenance.steps})
        return
    console.say(card.provenance.steps[-1])
    console.say(f"wrote {out}; go on with 'medfm-compress finetune STUDY --model {model} --weights {out} ...'")
