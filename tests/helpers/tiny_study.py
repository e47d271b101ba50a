"""A study in memory: small discs on noise, with and without a bright spot. Its source notes what was read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.images.pixels import Pixels
from medfm_compress.runtime.task import Task

SIDE = 32
SPEC = ImageSpec(height_px=SIDE, width_px=SIDE, colour="grey", mean=(0.5,), std=(0.25,))
TASK = Task(kind="binary", labels=("normal", "spot"))


class NotedSource:
    def __init__(self) -> None:
        self.read_images: list[str] = []

    def read(self, image: str) -> Pixels:
        self.read_images.append(image)
        number = int(image.rpartition("-")[2])
        random = np.random.default_rng(number)
        values = random.normal(90, 25, (SIDE, SIDE))
        if number % 2:
            row, column = random.integers(4, SIDE - 8, 2)
            values[row : row + 5, column : column + 5] += 90
        return Pixels.from_integers(np.clip(values, 0, 255).astype(np.uint8))

    def content_sha256(self, image: str) -> str:
        return f"{hash(image):064x}"


def make_study(train: int = 24, val: int = 16, test: int = 8, labels: tuple[str, ...] = ("normal", "spot")) -> Study:
    sizes = {"train": train, "val": val, "test": test}
    names = [(split, number) for split, count in sizes.items() for number in range(count)]
    offset = {"train": 0, "val": 1000, "test": 2000}
    cases = tuple(
        Case(image=f"{split}-{offset[split] + number}", split=split, target=(number % 2,)) for split, number in names
    )
    return Study(root=Path("tiny"), kind="binary", labels=labels, cases=cases, source=NotedSource())


def make_module(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * width, 2),
    )
