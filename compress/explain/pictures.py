"""The maps as pictures that any viewer opens: each case as the network saw it, and under the maps of each model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.render.html.gallery import overlay

_LONGEST = 80  # characters of a model's name in a file's


def write_pictures(
    folder: Path,
    images: NDArray[np.uint8],
    maps: Sequence[tuple[str, NDArray[np.float32]]],
    positions: Sequence[int],
) -> None:
    """Write ``case-0001-input.png`` and, for each model, ``case-0001-MODEL.png``, numbered as in the report.

    Args:
        folder: exists.
        images: ``[n, H, W, 3]``, before normalisation.
        maps: name of a model and its maps ``[n, H, W]`` in [0, 1]; hotter is lighter.
        positions: of each case among the labelled ones of the split, from 0.
    """
    from PIL import Image

    for row, position in enumerate(positions):
        pictures = {"input": images[row]} | {name: overlay(images[row], heat[row]) for name, heat in maps}
        for name, picture in pictures.items():
            words = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")[:_LONGEST]
            Image.fromarray(picture).save(folder / f"case-{position + 1:04d}-{words}.png")
