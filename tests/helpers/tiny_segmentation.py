"""A study on disk whose masks draw a bright disc on noise, and a U-Net of two levels that learns it in a second."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from medfm_compress.data.open import open_study
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.prepared_masks import prepared_masks
from medfm_compress.data.study import Study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

SIDE = 32
SPEC = ImageSpec(height_px=SIDE, width_px=SIDE, colour="grey", mean=(0.5,), std=(0.25,))
TASK = Task(kind="segmentation", labels=("spot",))


def make_study(folder: Path, train: int = 24, val: int = 12, test: int = 4) -> Study:
    """Every fourth image shows no disc."""
    random = np.random.default_rng(0)
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    rows, columns = np.mgrid[:SIDE, :SIDE]
    table = []
    for number, split in enumerate(splits):
        middle, radius = random.uniform(8, SIDE - 8, 2), random.uniform(4, 7)
        inside = ((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < radius**2) & (number % 4 != 3)
        values = np.clip(random.normal(90, 20, (SIDE, SIDE)) + 90 * inside, 0, 255)
        for name, pixels in ((f"{number}.png", values), (f"{number}-mask.png", 255 * inside)):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
        table.append({"image": f"{number}.png", "split": split, "mask:spot": f"{number}-mask.png"})
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "split", "mask:spot"])
        writer.writeheader()
        writer.writerows(table)
    return open_study(folder / "cases.csv", structures=TASK.labels)


class TinyUnet(nn.Module):
    """One level down and up again, with a skip connection that is concatenated."""

    def __init__(self, width: int = 16) -> None:
        """``width`` channels at full resolution, twice as many below."""
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.up = nn.Upsample(scale_factor=2)
        self.joined = nn.Sequential(nn.Conv2d(3 * width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.leave = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits ``[n, 1, h, w]``."""
        skip = self.enter(images)
        return self.leave(self.joined(torch.cat([self.up(self.down(skip)), skip], dim=1)))


def inputs_of(study: Study, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised images and label maps of one split."""
    cases = study.split(split)
    images = (torch.from_numpy(prepared_images(study, cases, SPEC, None)) - 0.5) / 0.25
    return images, torch.from_numpy(np.array(prepared_masks(study, cases, SPEC, None)))


def trained(study: Study, steps: int = 40) -> TinyUnet:
    """Draws the discs, with a Dice of about 0.9."""
    torch.manual_seed(0)
    module = TinyUnet().train()
    images, masks = inputs_of(study, "train")
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for _ in range(steps):
        loss = nn.functional.binary_cross_entropy_with_logits(module(images)[:, 0], masks.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()
