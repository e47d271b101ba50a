"""A study that a network learns in seconds to segment: bright discs, and where wanted dark squares, on noise."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study

DISC, SQUARE = "disc", "square"


def write_discs(
    folder: Path, *, counts: tuple[int, int, int] = (32, 8, 4), size: int = 32, squares: bool = False, bare: int = 0
) -> Path:
    """Cases of train, val and test, and ``bare`` unlabelled ones; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    splits = [name for name, count in zip(("train", "val", "test"), counts, strict=True) for _ in range(count)]
    rows = []
    for number, split in enumerate(splits + ["unlabelled"] * bare):
        image, masks = _draw(random, size, squares=squares)
        Image.fromarray(image).save(folder / f"{number}.png")
        row = {"image": f"{number}.png", "split": split}
        for name, mask in masks.items():
            Image.fromarray(mask).save(folder / f"{number}-{name}.png")
            row[f"mask:{name}"] = "" if split == "unlabelled" else f"{number}-{name}.png"
        rows.append(row)
    with (folder / "cases.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return folder / "cases.csv"


def open_discs(folder: Path, **drawn: object) -> Study:
    """The study of `write_discs`."""
    return open_study(write_discs(folder, **drawn))  # type: ignore[arg-type]


def _draw(
    random: np.random.Generator, size: int, *, squares: bool
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]]:
    y, x = np.mgrid[:size, :size]
    values = random.normal(90, 8, (size, size, 3))
    cy, cx = random.uniform(0.3, 0.7, 2) * size
    disc = (y - cy) ** 2 + (x - cx) ** 2 < (random.uniform(0.15, 0.25) * size) ** 2
    values[disc] += (90, 60, 60)
    masks = {DISC: disc}
    if squares:
        top, left = random.integers(0, size - size // 4, 2)
        square = np.zeros_like(disc)
        square[top : top + size // 4, left : left + size // 4] = True
        square &= ~disc
        values[square] -= (80, 60, 80)
        masks[SQUARE] = square
    drawn = {name: np.asarray(mask, np.uint8) * 255 for name, mask in masks.items()}
    return values.clip(0, 255).astype(np.uint8), drawn
