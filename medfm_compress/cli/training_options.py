"""Options that ``finetune``, ``distill``, ``prune`` and ``pretrain`` share, as types of a command's parameters."""

from __future__ import annotations

from typing import Annotated

import typer

Modality = Annotated[str, typer.Option(help="radiograph, dermoscopy, histology, endoscopy or none.")]
Epochs = Annotated[int, typer.Option(help="Passes over the training cases.", min=0)]
BatchSize = Annotated[int, typer.Option(help="Cases an optimizer step, over all processes.")]
MicroBatch = Annotated[int, typer.Option(help="Images that a device holds at once; 0 is its share of the batch.")]
LearningRate = Annotated[float, typer.Option(help="Peak learning rate.")]
Ema = Annotated[float, typer.Option(help="Decay of the moving average that is scored and kept.")]
Patience = Annotated[int, typer.Option(help="Stop after so many epochs without a better score; 0 never.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Compile = Annotated[bool, typer.Option("--compile", help="Run the network through torch.compile.")]
TensorBoard = Annotated[str, typer.Option(help="Folder for TensorBoard's event files; empty writes none.")]
Seed = Annotated[int, typer.Option(help="Of views and batches.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
