"""The studies of `anomaly.py`: which cases of which public set, and of which part of the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from PIL import Image

from medfm_compress.data.normal_labels import is_normal
from medfm_compress.data.open import open_study
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Case, Study
from medfm_compress.data.table import write_table
from medfm_compress.runtime.image_spec import DicomRules


class Source(NamedTuple):
    """A study: its folder, its normal labels, the kind of its images, and cases of each split at most.

    Of ``crop`` only the middle is kept, as a part of each side; ``student`` is another study whose encoder serves.
    """

    folder: str
    normal: tuple[str, ...]
    modality: str
    train: int
    val: int
    test_normal: int
    test_abnormal: int
    epochs: int = 24
    crop: float = 1.0
    student: str = ""


SOURCES = {
    "polyps": Source("polyps", ("polyp",), "endoscopy", 112, 48, 40, 20),
    "polyps-middle": Source("polyps", ("polyp",), "endoscopy", 112, 48, 40, 20, crop=0.75, student="polyps"),
    "histology": Source("lung-histology", ("benign",), "histology", 300, 100, 150, 300),
    "chest": Source("chest-xray-pneumonia", ("normal",), "radiograph", 300, 100, 234, 390),
}


def write_studies(data: Path, out: Path) -> None:
    """A table a study, of absolute paths."""
    for name, source in SOURCES.items():
        if not (out / f"{name}.csv").exists():
            study = cut(open_study(data / source.folder, normal=source.normal), source, name)
            if source.crop < 1:
                study = middles(study, source.crop, out / f"{name}-images")
            write_table(study, out / f"{name}.csv")


def middles(study: Study, part: float, folder: Path) -> Study:
    """The study with the middle of each image in the place of the whole, without masks."""
    folder.mkdir(exist_ok=True)
    cases = []
    for number, case in enumerate(study.cases):
        pixels = study.source.read(case.image).values
        top, left = (int(side * (1 - part) / 2) for side in pixels.shape[:2])
        Image.fromarray(pixels[top : len(pixels) - top, left : pixels.shape[1] - left]).save(folder / f"{number}.png")
        cases.append(msgspec.structs.replace(case, image=f"{number}.png", masks=()))
    source = Files(folder, DicomRules())
    return msgspec.structs.replace(study, root=folder, cases=tuple(cases), source=source, mask_columns=())


def cut(study: Study, source: Source, name: str) -> Study:
    """The cases that are taken: normal ones of train and val, both kinds of test; test's patients stand there alone."""
    cases = [c if c.split != "anomaly" else msgspec.structs.replace(c, split="test") for c in study.cases]
    tested = {c.cluster for c in cases if c.split == "test"}
    normal = [c for c in cases if c.split in ("train", "val") and is_normal(c) and c.cluster not in tested]
    if name == "chest":  # whose own val has 16 images: one is cut out of train, by patient
        clusters = sorted({c.cluster for c in normal})
        held = set(np.random.default_rng(0).permutation(clusters)[: len(clusters) // 4].tolist())
        normal = [msgspec.structs.replace(c, split="val" if c.cluster in held else "train") for c in normal]
    chosen = [
        *some([c for c in normal if c.split == "train"], source.train),
        *some([c for c in normal if c.split == "val"], source.val),
        *some([c for c in cases if c.split == "test" and is_normal(c)], source.test_normal),
        *some([c for c in cases if c.split == "test" and not is_normal(c)], source.test_abnormal),
    ]
    return msgspec.structs.replace(study, cases=tuple(chosen))


def some(cases: Sequence[Case], count: int) -> list[Case]:
    """``count`` of them, drawn, in their order."""
    drawn = np.random.default_rng(0).permutation(len(cases))[:count]
    return [cases[number] for number in sorted(drawn.tolist())]
