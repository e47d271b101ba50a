"""Masks: which structure each pixel of an image shows, as a label map.

A label map is uint8 ``[height, width]``: 0 background, k the k-th structure. It is read from

    one file for one structure       0 background, one other value the structure
    one file for several             0 background, k the k-th structure (nnU-Net's convention)
    one file a structure             each as for one; no pixel may belong to two

A file that is absent for a structure (an empty cell) draws nothing of it. One file that stands for all of several
structures is the second form, whether it has a column ``mask`` or the cell of every ``mask:NAME``. Masks are as large
as their image, and lie on it as it is read: turned as its EXIF orientation says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medfm_compress.data.sources import size_of
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.errors import ImageRefused, StudyError
from medfm_compress.runtime.images.read_mask import read_mask

LabelMap = NDArray[np.uint8]
_SHOWN = 6


def label_map(study: Study, case: Case) -> LabelMap:
    """The label map of a drawn case, as large as its image.

    Raises:
        StudyError: it cannot be read, has a value that stands for nothing, draws a pixel twice, or is of another size
            than the image.
    """
    drawn = drawn_map(study, case)
    try:
        if size_of(study.source, case.image) != drawn.shape:
            check_size(drawn, case, study.source.read(case.image).shape[:2])
    except ImageRefused as exc:
        raise StudyError(f"image {case.image!r}: {exc}") from None
    return drawn


def drawn_map(study: Study, case: Case) -> LabelMap:
    """The label map of a drawn case, at the size that it was drawn at, whatever its image's is.

    Raises:
        StudyError: it cannot be read, has a value that stands for nothing, or draws a pixel twice.
    """
    folder = mask_folder(study)
    try:
        return read_label_map([folder / name if name else None for name in case.masks], study.labels)
    except ImageRefused as exc:
        raise StudyError(f"mask of {case.image!r}: {exc}") from None


def drawn_values(study: Study, case: Case) -> tuple[int, ...]:
    """Of each structure, in order, the value that its own file draws it with; 0 where it draws none.

    None at all where one file draws several structures by their numbers. The case's masks were read before.
    """
    if len(case.masks) == 1 < len(study.labels):
        return ()
    folder = mask_folder(study)
    files = (read_mask(folder / name) if name else np.zeros(1, np.uint8) for name in case.masks)
    return tuple(int(values.max() or values.min()) for values in files)


def check_size(drawn: LabelMap, case: Case, size: Sequence[int]) -> None:
    """Refuse a mask of another size than its image as that is read, (height, width) px.

    Raises:
        StudyError: saying both sizes, and whether a turn would make them equal.
    """
    height, width = (int(side) for side in size)
    if drawn.shape == (height, width):
        return
    turned = drawn.shape == (width, height)
    hint = (
        "it lies on its side: turn it as the image's EXIF orientation turns the image"
        if turned
        else "draw it on this image, at its own size"
    )
    raise StudyError(f"mask of {case.image!r}: it is {_size(drawn)} and the image {width}×{height} px; {hint}")


def mask_folder(study: Study) -> Path:
    """Folder that the paths of masks start from."""
    return study.root if study.root.is_dir() else study.root.parent


def read_label_map(files: Sequence[Path | None], structures: Sequence[str]) -> LabelMap:
    """The label map that ``files`` draw: one of every structure, or one a structure, None where it draws nothing.

    Raises:
        ImageRefused: a file that cannot be read, a value that stands for no structure, or a pixel of two.
    """
    if len(files) == 1 and len(structures) > 1 and files[0] is not None:
        return _of_several(read_mask(files[0]), files[0].name, len(structures))
    merged: LabelMap | None = None
    for number, file in enumerate(files, start=1):
        if file is None:
            continue
        drawn = _of_one(read_mask(file), file.name)
        merged = np.zeros(drawn.shape, np.uint8) if merged is None else merged
        if merged.shape != drawn.shape:
            raise ImageRefused(f"{file.name} is {_size(drawn)} and the masks before it {_size(merged)}")
        if (both := int((drawn & (merged > 0)).sum())) > 0:
            raise ImageRefused(f"{file.name} draws {both} pixels that an earlier structure has; structures exclude")
        merged[drawn] = number
    if merged is None:
        raise ImageRefused("no file draws anything")
    return merged


def _of_one(values: NDArray[np.integer], name: str) -> NDArray[np.bool_]:
    present = values_in(values)
    others = present[present != 0]
    if len(others) > 1:
        raise ImageRefused(
            f"{name} has the values {listed(present)}; 0 and one other are a mask of one structure. Convert it with "
            "'medfm-compress study masks'"
        )
    return np.asarray(values != 0)


def _of_several(values: NDArray[np.integer], name: str, count: int) -> LabelMap:
    present = values_in(values)
    unknown = present[(present < 0) | (present > count)]
    if len(unknown):
        raise ImageRefused(
            f"{name} has the values {listed(unknown)}, which stand for nothing: 0 is the background and 1 to {count} "
            "the structures in their order. Convert it with 'medfm-compress study masks'"
        )
    return values.astype(np.uint8)


def values_in(values: NDArray[np.integer]) -> NDArray[np.integer]:
    """The distinct values of an array of whole numbers, in order."""
    if values.dtype.itemsize > 2:
        return np.unique(values)
    return np.flatnonzero(np.bincount(values.reshape(-1)))


def presence(drawn: LabelMap, structures: int) -> tuple[int, ...]:
    """One 0/1 a structure: whether the label map shows it anywhere."""
    counts = np.bincount(drawn.reshape(-1), minlength=structures + 1)
    return tuple(int(count > 0) for count in counts[1 : structures + 1])


def _size(drawn: NDArray[np.generic]) -> str:
    return f"{drawn.shape[1]}×{drawn.shape[0]} px"


def listed(values: NDArray[np.integer]) -> str:
    """The first few of some values, and how many there are."""
    more = f" … ({len(values)} in all)" if len(values) > _SHOWN else ""
    return ", ".join(str(int(value)) for value in values[:_SHOWN]) + more
