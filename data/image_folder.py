"""Images without labels, in any folder: some calibrate and some judge how far a smaller network departs from its own.

Two of three calibrate, every third judges, in an order drawn by chance. Every image is read before it is taken; what
cannot be used is left out and said.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from medfm_compress.data.folders import files_beside, images_below
from medfm_compress.data.prepared import prepared_images
from medfm_compress.data.sources import Files
from medfm_compress.data.study import Case, Study
from medfm_compress.data.unread_files import by_suffix
from medfm_compress.runtime.errors import StudyError, in_one_line
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

_OF_THREE = 3
_LEAST_JUDGED = 4


def open_images(folder: Path, task: Task, spec: ImageSpec, least: int, most: int, seed: int) -> Study:
    """The images below ``folder`` as a study with splits ``train`` and ``val`` and no labels.

    Args:
        folder: images of any kind that is read, at any depth.
        task: gives the labels that the network has.
        spec: preprocessing that every image must be fit for.
        least: images that must calibrate.
        most: images that are taken, of those that can be used.
        seed: of the order.

    Raises:
        StudyError: it is no folder, or holds too few images that can be used.
    """
    if not folder.is_dir():
        raise StudyError(f"--images {folder} is no folder; give a folder of images, or a labelled study with --study")
    images = images_below(folder)
    names = [path.relative_to(folder).as_posix() for path in images]
    source = Files(folder, spec.dicom)
    study = Study(root=folder, kind=task.kind, labels=task.labels, normal=task.normal_labels, cases=(), source=source)
    refused: list[str] = []
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
    used = list(islice(_usable(study, [names[i] for i in order], spec, refused), max(most, _needed(least))))
    if len(used) < _needed(least):
        raise StudyError(_too_few(folder, len(used), least, refused, len(names)))
    cases = (Case(image=name, split="val" if number % _OF_THREE == 1 else "train") for number, name in enumerate(used))
    left_out = (f"left out {_listed(refused)}",) if refused else ()
    return Study(
        root=folder,
        kind=task.kind,
        labels=task.labels,
        normal=task.normal_labels,
        cases=tuple(sorted(cases, key=lambda case: case.image)),
        source=source,
        remarks=(*_not_read(folder, images), *left_out),
    )


def _not_read(folder: Path, images: Sequence[Path]) -> tuple[str, ...]:
    """What is said of files that are no images: a table among them is one that someone may think is read."""
    others = files_beside(folder, images)
    if not others:
        return ()
    tables = [path.relative_to(folder).as_posix() for path in others if path.suffix.lower() == ".csv"]
    labelled = f"; labels in {in_one_line(tables[0])} count with --study alone" if tables else ""
    return (f"{len(others)} file(s) that are no images are not read: {by_suffix(others)}{labelled}",)


def _needed(least: int) -> int:
    """Images of which two of three are ``least`` at least, and a third enough to judge."""
    return next(
        count
        for count in range(least, 10 * least)
        if count - (judged := (count + 1) // _OF_THREE) >= least and judged >= _LEAST_JUDGED
    )


def _usable(study: Study, names: list[str], spec: ImageSpec, refused: list[str]) -> Iterator[str]:
    """Names of the images that can be prepared; what is said of the others goes to ``refused``."""
    for name in names:
        try:
            prepared_images(study, [Case(image=name, split="val")], spec, None)
        except StudyError as exc:
            refused.append(str(exc).partition("; 'medfm-compress")[0])
        else:
            yield name


def _too_few(folder: Path, used: int, least: int, refused: list[str], listed: int) -> str:
    needed = _needed(least)
    reason = f"; {_listed(refused)}" if refused else ""
    none = "" if listed else " (no DICOM, PNG, JPEG, TIFF or BMP file is in it)"
    return (
        f"--images {in_one_line(folder)} has {used} images that can be used{none}: calibration needs at least {least}, "
        f"and judging {_LEAST_JUDGED}, so give {needed} or more{reason}"
    )


def _listed(refused: list[str]) -> str:
    first = refused[0] if len(refused[0]) <= 200 else f"{refused[0][:199]}…"
    return f"{len(refused)} image(s) that cannot be used, the first: {first}"
