"""From anomaly scores and maps to the per-case table: the score of every image, and of those with a mask, the places.

A map is laid on its image as the device does it, at the image's own size. Masks show where an image is abnormal, of
whatever finding; a normal image has no such place, whatever was drawn on it. An abnormal image that nobody drew says
nothing of places. See `stats.place_ranking` for the two metrics.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.evaluate import tabulate
from medfm_compress.bench.stats.place_ranking import PlaceRanking
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.metric import PLACE_METRICS, PlaceMetric
from medfm_compress.data.masks import check_size, mask_folder, read_label_map
from medfm_compress.data.sources import size_of
from medfm_compress.data.study import Case, Study
from medfm_compress.runtime.class_activation import score_on_image
from medfm_compress.runtime.errors import ImageRefused, InputError, StudyError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

Maps = NDArray[np.float32]


def tabulate_anomalies(
    logits: NDArray[np.generic],
    maps: Maps | None,
    study: Study,
    cases: tuple[Case, ...],
    task: Task,
    spec: ImageSpec,
    name: str,
) -> Evaluation:
    """The per-case table.

    Args:
        logits: ``[n, 1]``.
        maps: ``[n, h, w]``, in the unit of the logits; None of a network without, or where masks do not fit the images.
        study: where images and masks come from.
        cases: labelled ones.
        task: threshold and labels.
        spec: of the network's input.
        name: of the model.

    Raises:
        InputError: as `evaluate.evaluate`; or a map that is not finite.
        StudyError: a mask that cannot be read, or is of another size than its image.
    """
    table = tabulate(logits, study, cases, task, name=name)
    unknown = np.full((len(cases), 1), np.nan)
    if maps is None or not any(_is_drawn(case) for case in cases):
        return msgspec.structs.replace(table, case_metrics={metric: unknown.copy() for metric in PLACE_METRICS})
    if not np.isfinite(maps).all():
        raise InputError(f"{name!r} gives anomaly maps that are not finite; run it in a higher precision")
    values = place_metrics(maps, study, cases, spec)
    return msgspec.structs.replace(table, case_metrics={metric: values[metric][:, None] for metric in PLACE_METRICS})


def place_metrics(
    maps: Maps, study: Study, cases: Sequence[Case], spec: ImageSpec
) -> dict[PlaceMetric, NDArray[np.float64]]:
    """Each metric of places, ``[n]``; NaN of a case without a mask.

    Raises:
        StudyError: as `tabulate_anomalies`.
    """
    ranking = PlaceRanking(list(maps))
    for scores, case in zip(maps, cases, strict=True):
        size = _size(study, case)
        abnormal = abnormal_pixels(study, case, size)
        laid = scores if abnormal is None else score_on_image(scores, spec, *size)
        ranking.add(laid, abnormal)
    return {"pixel_auroc": ranking.pixel_auroc(), "pro": ranking.pro()}


def abnormal_pixels(study: Study, case: Case, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Where an image of ``size`` (height, width) px is abnormal, ``[H, W]``; None where nobody drew an abnormal one.

    Raises:
        StudyError: a mask that cannot be read, has more than one value beside 0, or is of another size.
    """
    shown = np.zeros(size, np.bool_)
    if case.target == (0,):
        return shown
    if not _is_drawn(case):
        return None
    for name in filter(None, case.masks):
        try:
            drawn = read_label_map([mask_folder(study) / name], study.labels)
        except ImageRefused as exc:
            raise StudyError(f"mask of {case.image!r}: {exc}") from None
        check_size(drawn, case, size)
        shown |= drawn > 0
    return shown


def _is_drawn(case: Case) -> bool:
    return case.target == (1,) and any(case.masks)


def _size(study: Study, case: Case) -> tuple[int, int]:
    try:
        return size_of(study.source, case.image)
    except ImageRefused as exc:
        raise StudyError(f"image {case.image!r}: {exc}") from None
