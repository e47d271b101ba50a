"""A study small enough to train on in a test: bright or dark discs on noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medfm_compress.data.open import open_study
from medfm_compress.data.study import Study

COUNTS = {"train": 48, "val": 24, "test": 24}
SIDE = 48


def write_discs(path: Path, seed: int = 0) -> Path:
    """A MedMNIST-like archive: label 1 has a disc that is a little brighter than the noise."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    arrays = {}
    for split, count in COUNTS.items():
        images = generator.normal(100, 25, (count, SIDE, SIDE))
        labels = np.arange(count) % 2
        for image, label in zip(images, labels, strict=True):
            cx, cy = generator.integers(14, SIDE - 14, 2)
            image[(x - cx) ** 2 + (y - cy) ** 2 < 80] += 60 * label
        arrays[f"{split}_images"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="session")
def discs_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_discs(tmp_path_factory.mktemp("discs") / "discs.npz")


@pytest.fixture(scope="session")
def discs(discs_path: Path) -> Study:
    return open_study(discs_path)
