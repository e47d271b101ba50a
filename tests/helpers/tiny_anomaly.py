"""A study in memory of noise with bright spots, for anomaly scores, with masks on disk; and networks that score it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_study
import torch
from msgspec.structs import replace
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from medfm_compress.data.study import Study
from medfm_compress.runtime.task import Task

NORMAL = ("normal",)
TASK = Task(kind="anomaly", labels=("abnormal",), normal=NORMAL)
SPEC = tiny_study.SPEC
SIDE = tiny_study.SIDE
HASHES = tuple(f"{number:064x}" for number in range(1, 7))


def make_study(root: Path | None = None, *, val: int = 48, test: int = 24) -> Study:
    """Every second case has a spot; with a folder ``root`` the spots are drawn there as masks."""
    study = tiny_study.make_study(val=val, test=test)
    study = replace(study, kind="anomaly", labels=TASK.labels, normal=NORMAL)
    if root is None:
        return study
    cases = []
    for case in study.cases:
        if case.target == (1,):
            Image.fromarray(255 * spot_of(case.image).astype(np.uint8)).save(root / f"{case.image}.png")
        cases.append(replace(case, masks=(f"{case.image}.png",)) if case.target == (1,) else case)
    return replace(study, root=root, cases=tuple(cases), mask_columns=("mask",))


def spot_of(image: str) -> NDArray[np.bool_]:
    """Where `tiny_study` puts the spot of an image with an odd number."""
    random = np.random.default_rng(int(image.rpartition("-")[2]))
    random.normal(90, 25, (SIDE, SIDE))
    row, column = random.integers(4, SIDE - 8, 2)
    shown = np.zeros((SIDE, SIDE), bool)
    shown[row : row + 5, column : column + 5] = True
    return shown


class Patches(nn.Module):
    """Mean brightness and contrast of every 4 × 4 patch against a small memory; the image scores as its worst patch."""

    output_names = ("logits", "anomaly_map", "nearest")

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__()
        memory = np.random.default_rng(0).normal([-0.6, 0.6], 0.08, (len(HASHES), 2))
        self.register_buffer("memory", torch.tensor(memory, dtype=torch.float32))
        self.register_buffer("shift", torch.tensor([0.35 + noise, 0.12]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = nn.functional.avg_pool2d(x, 4)
        spread = torch.sqrt(nn.functional.avg_pool2d(x * x, 4) - mean * mean + 1e-3)
        places = torch.cat([mean, spread], 1).flatten(2).transpose(1, 2)  # [n, 64, 2]
        squared = ((places[:, :, None] - self.memory) ** 2).sum(-1)  # [n, 64, 6]
        nearest, number = squared.min(2)
        scores = (torch.sqrt(nearest + 1e-9) - self.shift[0]) / self.shift[1]
        worst, place = scores.max(1, keepdim=True)
        return worst, scores.reshape(-1, 1, 8, 8), number.gather(1, place).to(torch.float32)


class Nearest(Patches):
    """Its image score alone, as a classifier's module gives it."""

    output_names = ("logits",)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x)[0]
