"""``medfm-compress prune``: remove channels, MLP widths and heads, then recover by distillation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from medfm_compress.cli import console
from medfm_compress.cli import training_options as options

if TYPE_CHECKING:
    from medfm_compress.compress.pruning.prune import Pruned
    from medfm_compress.compress.pruning.scores import Importance


def prune(
    model: Annotated[Path, typer.Argument(help="Model folder to prune; it is not changed.")],
    study: Annotated[Path, typer.Option(help="Study to recover on.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    macs: Annotated[
        float, typer.Option(help="Fraction of the multiply-accumulates to keep, above 0 and below 1.")
    ] = 0.5,
    round_to: Annotated[int, typer.Option(help="Widths become multiples of it: 16 or 32.")] = 16,
    importance: Annotated[
        str, typer.Option(help="magnitude, or taylor (first order, on training cases).")
    ] = "magnitude",
    epochs: Annotated[int, typer.Option(help="Of recovery by distillation; 0 only prunes.", min=0)] = 10,
    modality: options.Modality = "radiograph",
    batch_size: options.BatchSize = 32,
    micro_batch: options.MicroBatch = 0,
    learning_rate: options.LearningRate = 5e-4,
    precision: options.Precision = "auto",
    device: options.Device = "auto",
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Prune a model to a fraction of its MACs and distil the original into it. Resumes where it was interrupted."""
    from medfm_compress import steps
    from medfm_compress.compress.training.config import TrainingConfig
    from medfm_compress.recipe import PruneStep

    config = TrainingConfig(
        epochs=epochs,
        batch_size=batch_size,
        micro_batch=micro_batch,
        learning_rate=learning_rate,
        precision=precision,
        device=device,
        modality=modality,
        seed=seed,
    )
    step = PruneStep(macs=macs, round_to=round_to, importance=cast("Importance", importance), training=config)
    pruned = steps.prune(study, model, model, step, console.progress, out)
    if json:
        console.emit_json(_as_json(pruned, out))
    else:
        _tell(pruned, out)


def _as_json(pruned: Pruned, out: Path) -> dict[str, Any]:
    return {
        "model": str(out),
        "macs_before": pruned.macs_before,
        "macs_after": pruned.macs_after,
        "parameters_before": pruned.parameters_before,
        "parameters_after": pruned.parameters_after,
        "widths": [vars(change) for change in pruned.widths],
        "protected": [vars(entry) for entry in pruned.protected],
    }


def _tell(pruned: Pruned, out: Path) -> None:
    counts = (
        ("MACs an image", pruned.macs_before, pruned.macs_after),
        ("parameters", pruned.parameters_before, pruned.parameters_after),
    )
    rows = [(name, f"{before:,}", f"{after:,}", f"{after / before:.3f}") for name, before, after in counts]
    console.table(("", "before", "after", "kept"), rows)
    console.say(f"{len(pruned.widths)} layers became narrower, {len(pruned.protected)} were left alone; wrote {out}")
