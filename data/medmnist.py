"""MedMNIST ``.npz`` files: ``train_images``, ``train_labels``, ``val_…``, ``test_…`` (Yang et al. 2023).

Labels are numbers in the file, so label names here are ``0``, ``1``, …; several label columns make a multi-label study.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from medfm_compress.data.labels import check_classes
from medfm_compress.data.normal_labels import labelled_study, refuse_normal
from medfm_compress.data.sources import Arrays, array_names, load_array
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import StudyError

_SPLITS = ("train", "val", "test")


def open_medmnist(path: Path, normal: tuple[str, ...] = ()) -> Study:
    """Open one file.

    Raises:
        StudyError: damaged, an array missing or of the wrong shape or type, pickled content, or 3-D images.
    """
    source = Arrays(path)
    present = [split for split in _SPLITS if f"{split}_images" in array_names(path)]
    labels = {split: _labels(source, split) for split in present or _SPLITS}
    widths = {array.shape[1] for array in labels.values()}
    if len(widths) > 1:
        raise StudyError(f"{path.name}: the splits have {sorted(widths)} label columns; they must agree")
    rows = [(split, number, row) for split, array in labels.items() for number, row in enumerate(array.tolist())]
    cases = [Case(image=f"{split}/{number}", split=split) for split, number, _ in rows]
    if widths == {1}:
        return labelled_study(path, source, cases, [str(row[0]) for _, _, row in rows], normal)
    refuse_normal(path, normal)
    return _multilabel(path, source, [(case, tuple(row)) for case, (_, _, row) in zip(cases, rows, strict=True)])


def _multilabel(path: Path, source: Arrays, rows: list[tuple[Case, tuple[int, ...]]]) -> Study:
    if any(value not in (0, 1) for _, target in rows for value in target):
        raise StudyError(f"{path.name}: several label columns must hold 0 and 1 only")
    names = tuple(str(number) for number in range(len(rows[0][1])))
    cases = tuple(replace(case, target=target) for case, target in rows)
    study = Study(root=path, kind="multilabel", labels=names, cases=cases, source=source)
    check_classes(study)
    return study


def _labels(source: Arrays, split: str) -> NDArray[np.int64]:
    """Labels ``[n, columns]`` of one split, checked against its images."""
    images, labels = source.images(split), load_array(source.path, f"{split}_labels")
    _check_images(source.path, split, images)
    if labels.ndim == 1:
        labels = labels[:, None]
    if labels.dtype.kind not in "iub" or labels.ndim != 2 or len(labels) != len(images) or not labels.shape[1]:
        raise StudyError(
            f"{source.path.name}: {split}_labels is {labels.dtype} {labels.shape}; whole numbers, one row for each of "
            f"the {len(images)} images, are needed"
        )
    return labels.astype(np.int64)


def _check_images(path: Path, split: str, images: NDArray[np.uint8]) -> None:
    if images.ndim == 5 or (images.ndim == 4 and images.shape[3] not in (1, 3)):
        raise StudyError(
            f"{path.name} holds 3-D volumes {images.shape[1:]}, which are out of scope; give a 2-D MedMNIST set"
        )
    if images.ndim not in (3, 4) or images.shape[3:] == (1,) or images.dtype != np.uint8 or not len(images):
        raise StudyError(
            f"{path.name}: {split}_images is {images.dtype} {images.shape}; uint8 [n, height, width] or [n, height, "
            "width, 3] is needed"
        )
