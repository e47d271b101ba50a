"""A tiny anomaly study: normal images are smooth stripes, abnormal ones have a bright square somewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIDE = 64


def image(number: int, *, abnormal: bool) -> np.ndarray:
    """Stripes of a random phase and width, uint8 ``[64, 64]``."""
    rng = np.random.default_rng(number)
    across = np.arange(SIDE) / SIDE
    stripes = np.sin(2 * np.pi * (across * rng.uniform(2, 3) + rng.uniform()))[None, :] * np.ones((SIDE, 1))
    values = 110 + 50 * stripes + rng.normal(0, 4, (SIDE, SIDE))
    if abnormal:
        row, column = rng.integers(8, 40, 2)
        values[row : row + 16, column : column + 16] = rng.choice([20, 240], (16, 16))
    return np.clip(values, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def anomaly_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 normal images of train, 12 of val, 8 of test, and abnormal ones of train and test."""
    folder = tmp_path_factory.mktemp("anomaly")
    rows = [("train", "normal")] * 24 + [("val", "normal")] * 12 + [("test", "normal")] * 8
    rows += [("train", "lesion")] * 2 + [("test", "lesion")] * 8
    lines = ["image,split,label"]
    for number, (split, label) in enumerate(rows):
        Image.fromarray(image(number, abnormal=label == "lesion")).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{split},{label}")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder
