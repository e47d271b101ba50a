"""From what a network says of the pixels to the per-case table: each answer is held against its mask and let go.

Case by case, so that no more than one label map is in memory; those that a gallery wants are kept as PNG files.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.evaluate.mask_metrics import mask_metrics
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.mask_rules import MaskRules
from medfm_compress.bench.types.metric import MASK_METRICS
from medfm_compress.data.masks import label_map
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.atomic_write import write_atomically
from medfm_compress.runtime.errors import ImageRefused, InputError
from medfm_compress.runtime.images.read_mask import read_mask
from medfm_compress.runtime.segmentation.segment import Segmented
from medfm_compress.runtime.task import Task

LabelMap = NDArray[np.uint8]
_LARGEST_LOGIT = 1e4


class MaskOptions(NamedTuple):
    """How masks are judged, and where label maps are kept.

    Attributes:
        rules: tolerances and thresholds.
        keep: folder that receives a PNG a case and model; None keeps none.
        fit: whether masks lie on the images as they are; not where these were turned or shifted.
    """

    rules: MaskRules = MaskRules()
    keep: Path | None = None
    fit: bool = True


DEFAULT_MASKS = MaskOptions()


def tabulate_masks(
    answers: Iterable[Segmented],
    study: Study,
    cases: tuple[Case, ...],
    task: Task,
    *,
    name: str,
    options: MaskOptions = DEFAULT_MASKS,
) -> Evaluation:
    """The per-case table of ``answers``, one for each of ``cases`` in their order.

    A case shows a structure where its label map does; its score is the highest probability anywhere.

    Raises:
        InputError: as `evaluate.evaluate`.
        StudyError: a mask that cannot be read, or is of another size than its image.
    """
    spacings = spacings_mm(study, cases)
    shape = (len(cases), len(task.labels))
    columns = {metric: np.full(shape, math.nan) for metric in MASK_METRICS}
    peaks, shown = np.empty(shape), np.zeros(shape, np.int64)
    for row, (case, answer) in enumerate(zip(cases, answers, strict=True)):
        truth = label_map(study, case)
        if truth.shape != answer.label_map.shape:
            raise InputError(f"the mask of {case.image!r} is {truth.shape}, its image {answer.label_map.shape}")
        found = mask_metrics(
            answer.label_map, truth, len(task.labels), options.rules, spacings[row] if spacings else None
        )
        for metric, values in found.items():
            columns[metric][row] = values
        peaks[row] = answer.peaks
        counts = np.bincount(answer.label_map.reshape(-1), minlength=len(task.labels) + 1)
        shown[row] = counts[1 : len(task.labels) + 1] > 0
        if options.keep is not None:
            keep_map(options.keep, name, row, answer.label_map)
    return msgspec.structs.replace(
        tabulate(_logits(peaks) * task.temperature, study, cases, task, name=name),
        decisions=shown,
        case_metrics=dict(columns),
        mask_rules=options.rules,
        distance_unit="mm" if spacings else "px",
    )


def spacings_mm(study: Study, cases: tuple[Case, ...]) -> tuple[float, ...] | None:
    """Distance of pixels of every case; None where one does not say it, so that all are measured in pixels."""
    spacings: list[float] = []
    for case in cases:
        try:
            spacing = study.source.read(case.image).spacing_mm
        except ImageRefused:
            spacing = None
        if spacing is None:
            return None
        spacings.append(spacing)
    return tuple(spacings)


def keep_map(folder: Path, name: str, row: int, shown: LabelMap) -> None:
    """Write the label map of case ``row`` by the model called ``name``."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(shown).save(data, format="PNG", compress_level=1)
    path = kept_map(folder, name, row)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data.getvalue())


def kept_map(folder: Path, name: str, row: int) -> Path:
    """Where it lies."""
    safe = "".join(letter if letter.isalnum() or letter in "-_" else f"%{ord(letter):x}" for letter in name)
    return folder / safe / f"{row}.png"


def read_kept_map(folder: Path, name: str, row: int) -> LabelMap | None:
    """Read it; None where none was kept."""
    path = kept_map(folder, name, row)
    return read_mask(path).astype(np.uint8) if path.is_file() else None


def _logits(peaks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits of probabilities, those of 0 and 1 as far out as any."""
    with np.errstate(divide="ignore"):
        logits: NDArray[np.float64] = np.log(peaks) - np.log1p(-peaks)
    return np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)
