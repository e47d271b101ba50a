"""MedMNIST ``.npz``: ``{train,val,test}_{images,labels}`` (Yang et al. 2023, "MedMNIST v2")."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.sources import Arrays
from medfm_compress.data.study import Case, Study
from medfm_compress.data.table import check_classes
from medfm_compress.runtime.errors import StudyError
from medfm_compress.runtime.task import TaskKind


def read_medmnist(path: Path) -> Study:
    """Open an ``.npz`` without unpickling anything.

    Raises:
        StudyError: not an ``.npz`` of arrays, no training images, 3-D volumes, images and labels of unequal number.
    """
    arrays = _load(path)
    if "train_images" not in arrays or "train_labels" not in arrays:
        raise StudyError(f"{path} has no train_images and train_labels; it has {', '.join(arrays) or 'nothing'}")
    images = {s: arrays[f"{s}_images"] for s in ("train", "val", "test") if f"{s}_images" in arrays}
    labels = {s: _labels(arrays, s, path) for s in images}
    for split, stack in images.items():
        _check(stack, len(labels[split]), split, path)
    width = labels["train"].shape[1]
    kind: TaskKind = "multilabel" if width > 1 else "multiclass"
    count = width if width > 1 else int(max(values.max(initial=0) for values in labels.values())) + 1
    cases = tuple(
        Case(image=f"{split}/{row}", split=split, target=tuple(int(value) for value in target))
        for split, values in labels.items()
        for row, target in enumerate(values)
    )
    names = tuple(str(i) for i in range(count))
    kind = "binary" if kind == "multiclass" and count == 2 else kind
    study = Study(root=path, kind=kind, labels=names, cases=cases, source=Arrays(images))
    check_classes(study)
    return study


def _load(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile, KeyError, AttributeError) as exc:
        raise StudyError(f"{path} is not an .npz of plain arrays: {exc}") from None


def _labels(arrays: dict[str, NDArray[Any]], split: str, path: Path) -> NDArray[Any]:
    labels = arrays.get(f"{split}_labels")
    if labels is None or labels.dtype.kind not in "iub" or labels.ndim > 2 or (labels.size and labels.min() < 0):
        raise StudyError(f"{path}: {split}_labels must be whole numbers from 0, [n] or [n, labels]")
    return labels.reshape(len(labels), -1)


def _check(stack: NDArray[Any], labels: int, split: str, path: Path) -> None:
    if stack.ndim == 5 or (stack.ndim == 4 and stack.shape[-1] not in (1, 3)):
        raise StudyError(f"{path}: {split}_images are 3-D volumes {stack.shape[1:]}, which are out of scope")
    if stack.ndim not in (3, 4):
        raise StudyError(f"{path}: {split}_images have shape {stack.shape}; give [n, h, w] or [n, h, w, 3]")
    if len(stack) != labels:
        raise StudyError(f"{path}: {split} has {len(stack)} images and {labels} labels; their number must agree")
