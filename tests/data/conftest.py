from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from medfm_compress.data.study import Case, Study
from medfm_compress.data.synthetic import draw_study
from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.images.pixels import Pixels


class MemorySource:
    """Images made from their names; equal arrays have equal contents, and names in ``broken`` cannot be read."""

    def __init__(self, arrays: dict[str, NDArray[np.uint8]], broken: Sequence[str] = ()) -> None:
        self.arrays, self.broken = arrays, broken
        self.reads = 0

    def read(self, image: str) -> Pixels:
        if image in self.broken:
            raise ImageRefused(f"{image}: truncated")
        self.reads += 1
        return Pixels.from_integers(self.arrays[image])

    def content_sha256(self, image: str) -> str:
        if image in self.broken:
            raise ImageRefused(f"{image}: truncated")
        return hashlib.sha256(self.arrays[image].tobytes()).hexdigest()


def _in_memory(
    cases: Sequence[Case], labels: tuple[str, ...] = ("normal", "mass"), *, same: Sequence[Sequence[str]] = ()
) -> Study:
    """A study of noise images; those in one group of ``same`` are copies."""
    arrays = {
        case.image: np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
        for number, case in enumerate(cases)
    }
    for first, *others in same:
        arrays |= dict.fromkeys(others, arrays[first])
    width = max(len(case.target) for case in cases)
    kind = "multilabel" if width > 1 else "binary" if len(labels) == 2 else "multiclass"
    return Study(root=Path("study"), kind=kind, labels=labels, cases=tuple(cases), source=MemorySource(arrays))


@pytest.fixture(scope="session")
def in_memory() -> Callable[..., Study]:
    return _in_memory


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A small synthetic study; read it, do not change it."""
    return draw_study(tmp_path_factory.mktemp("drawn"), patients=40, seed=1, size_px=64)
