"""A segmentation teacher as a hospital would bring it: trained with plain PyTorch, known to this project as a file.

A U-Net (Ronneberger et al. 2015) of segmentation-models-pytorch on an EfficientNet-Lite0 encoder with ImageNet weights
and a wide decoder, trained on lesion masks, first at half the size. Binary cross-entropy plus soft Dice loss (Milletari
et al. 2016), mirrors, quarter turns, zoom and exposure. Cuts the study first: cases with a mask only, by a fixed seed.

    python experiments/segmentation_teacher.py STUDY ENCODER.safetensors OUT [--structure lesion] [--size 256]

writes ``OUT/cases.csv``, ``OUT/teacher.safetensors`` and ``OUT/teacher.json`` with its validation Dice.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import time
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

DECODER = (512, 256, 128, 64, 32)
ENCODER = "tu-tf_efficientnet_lite0"
MEAN, STD = 0.498, 0.502


def cut(study: Path, out: Path, structure: str, val: int, test: int) -> None:
    """Write ``out/cases.csv``: cases of ``study`` that have a mask, cut by a fixed seed, with absolute paths."""
    rows = [row for row in csv.DictReader((study / "cases.csv").open()) if row.get("mask")]
    if any(row["split"] == "test" for row in rows):
        splits = [row["split"] for row in rows]
    else:
        order = list(range(len(rows)))
        random.Random(0).shuffle(order)  # noqa: S311 (a split, no secret)
        rank = {number: place for place, number in enumerate(order)}
        splits = [_split_at(rank[number], val, test) for number in range(len(rows))]
    kept = [name for name in ("patient", "age", "sex") if name in rows[0]]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "cases.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "split", f"mask:{structure}", *kept])
        for row, split in zip(rows, splits, strict=True):
            paths = [str((study / row[name]).resolve()) for name in ("image", "mask")]
            table.writerow([paths[0], split, paths[1], *(row[name] for name in kept)])


def _split_at(rank: int, val: int, test: int) -> str:
    return "test" if rank < test else "val" if rank < test + val else "train"


def load(table: Path, split: str, size: int) -> tuple[Tensor, Tensor]:
    """Images ``[n, 3, size, size]`` uint8 and masks ``[n, 1, size, size]`` uint8 of one split."""
    images, masks = [], []
    for row in csv.DictReader(table.open()):
        if row["split"] != split:
            continue
        mask = next(value for name, value in row.items() if name.startswith("mask:"))
        with Image.open(row["image"]) as image:
            images.append(np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)))
        with Image.open(mask) as drawn:
            grey = np.asarray(drawn.convert("L").resize((size, size), Image.Resampling.NEAREST))
            masks.append((grey > 0).astype(np.uint8))
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return stacked, torch.from_numpy(np.stack(masks))[:, None]


def augmented(images: Tensor, masks: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """A batch in [0, 1] at ``size``: turned, mirrored, zoomed and exposed at random, images and masks alike."""
    count = len(images)
    angle = (torch.rand(count) * 2 - 1) * torch.pi
    zoom = 1 + (torch.rand(count) * 2 - 1) * 0.25
    mirror = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    cos, sin, shift = torch.cos(angle) * zoom, torch.sin(angle) * zoom, (torch.rand(count, 2) * 2 - 1) * 0.15
    rows = (cos * mirror, -sin, shift[:, 0], sin * mirror, cos, shift[:, 1])
    grid = functional.affine_grid(torch.stack(rows, 1).reshape(-1, 2, 3), [count, 1, size, size], align_corners=False)
    moved = functional.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    drawn = functional.grid_sample(masks.float(), grid, mode="nearest", padding_mode="reflection", align_corners=False)
    gain = 1 + (torch.rand(count, 3, 1, 1) * 2 - 1) * 0.15
    offset = (torch.rand(count, 1, 1, 1) * 2 - 1) * 0.1
    return (moved * gain + offset).clamp(0, 1), drawn


def loss_of(logits: Tensor, truth: Tensor) -> Tensor:
    """Binary cross-entropy plus 1 minus soft Dice, a mean over the batch."""
    entropy = functional.binary_cross_entropy_with_logits(logits, truth)
    soft = logits.sigmoid()
    both, either = (soft * truth).sum((1, 2, 3)), (soft + truth).sum((1, 2, 3))
    return entropy + (1 - (2 * both + 1) / (either + 1)).mean()


def mean_dice(network: torch.nn.Module, images: Tensor, masks: Tensor) -> float:
    """Mean Dice over cases at probability 0.5; two empty masks count as 1."""
    values = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(images), 8):
            batch = ((images[start : start + 8].float() / 255 - MEAN) / STD).contiguous(
                memory_format=torch.channels_last
            )
            drawn, truth = network(batch) > 0, masks[start : start + 8] > 0
            either = drawn.sum((1, 2, 3)) + truth.sum((1, 2, 3))
            both = (drawn & truth).sum((1, 2, 3))
            values += torch.where(either > 0, 2 * both / either.clamp(min=1), 1.0).tolist()
    return float(np.mean(values))


def main() -> None:  # noqa: PLR0915 (one script, from top to bottom)
    """Cut, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("study", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--structure", default="lesion")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--small-epochs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--val", type=int, default=150)
    parser.add_argument("--test", type=int, default=600)
    given = parser.parse_args()
    torch.manual_seed(0)
    cut(given.study, given.out, given.structure, given.val, given.test)
    network = smp.Unet(ENCODER, encoder_weights=None, decoder_channels=DECODER, classes=1)
    missing, _ = network.encoder.model.load_state_dict(load_file(given.encoder), strict=False)
    if missing:
        raise SystemExit(f"the encoder's weights lack {missing[:3]}")
    network = network.to(memory_format=torch.channels_last)
    images, masks = load(given.out / "cases.csv", "train", given.size)
    val_images, val_masks = load(given.out / "cases.csv", "val", given.size)
    encoder = list(network.encoder.parameters())
    known = {id(parameter) for parameter in encoder}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in known]
    optimizer = torch.optim.AdamW([{"params": encoder, "lr": 3e-4}, {"params": rest, "lr": 1e-3}], weight_decay=0.01)
    epochs = given.small_epochs + given.epochs
    scale = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda e: min(1.0, (e + 1) / 2) * 0.5 * (1 + np.cos(np.pi * e / epochs))
    )
    best, average = (
        -1.0,
        torch.optim.swa_utils.AveragedModel(
            network, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
        ),
    )
    for epoch in range(epochs):
        size = given.size // 2 if epoch < given.small_epochs else given.size
        started, total = time.monotonic(), 0.0
        network.train()
        for index in torch.randperm(len(images)).split(16):
            if len(index) < 2:
                continue
            batch, truth = augmented(images[index], masks[index], size)
            batch = ((batch - MEAN) / STD).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(batch)
            loss = loss_of(logits.float(), truth)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(network)
            total += float(loss.detach()) * len(index)
        scale.step()
        score = mean_dice(average.module.eval(), val_images, val_masks)
        sys.stdout.write(
            f"epoch {epoch + 1}/{epochs} at {size} px: loss {total / len(images):.4f}, validation Dice {score:.4f}, "
            f"{time.monotonic() - started:.0f} s\n"
        )
        sys.stdout.flush()
        if score > best and epoch >= given.small_epochs - 1:
            best = score
            state = {name: value.contiguous() for name, value in average.module.state_dict().items()}
            save_file(state, given.out / "teacher.safetensors")
            description = {
                "architecture": {
                    "library": "smp",
                    "name": "unet",
                    "arguments": {"encoder_name": ENCODER, "decoder_channels": DECODER, "classes": 1},
                },
                "size_px": given.size,
                "mean": MEAN,
                "std": STD,
                "validation_dice": round(best, 4),
                "epoch": epoch + 1,
            }
            (given.out / "teacher.json").write_text(json.dumps(description, indent=1))


if __name__ == "__main__":
    main()
