"""Metrics of one case's masks, structure by structure, at the image's own size.

    dice, iou                   see `stats.overlap`
    surface_dice, hd95          see `stats.surface_distance`; in mm where every case says its spacing, else in px
    lesion_sensitivity          see `stats.lesion_matching`; small_lesion_sensitivity of the small regions alone
    false_positives_per_image   drawn regions that match no true one

Empty masks, by declaration: where the truth does not show the structure, all but the last are not defined (NaN), and
the case is left out of their means, for teacher and bundle alike, since it depends on the truth alone; a structure that
was made up there is a false positive, and a case whose structure was invented. Where the truth shows it and nothing was
drawn, dice, iou, surface_dice and the sensitivities are 0, and hd95 is the image's diagonal.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.stats.lesion_matching import match_regions
from medfm_compress.bench.stats.overlap import dice, iou
from medfm_compress.bench.stats.surface_distance import surface_distances
from medfm_compress.bench.types.mask_rules import MaskRules
from medfm_compress.bench.types.metric import MASK_METRICS, MaskMetric
from medfm_compress.runtime.errors import InputError

LabelMap = NDArray[np.uint8]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def mask_metrics(
    predicted: LabelMap, truth: LabelMap, structures: int, rules: MaskRules, spacing_mm: float | None = None
) -> dict[MaskMetric, Floats]:
    """Every metric of one case, ``[structures]`` each.

    Args:
        predicted: label map ``[H, W]``.
        truth: likewise, of the same size.
        structures: how many there are.
        rules: tolerances and thresholds.
        spacing_mm: between pixels; None measures in pixels.

    Raises:
        InputError: the maps differ in size.
    """
    if predicted.shape != truth.shape:
        raise InputError(f"the label map is {predicted.shape} and the truth {truth.shape}; both are of one image")
    rows = [_of_one(predicted == number, truth == number, rules, spacing_mm) for number in range(1, structures + 1)]
    return {metric: np.array([row[metric] for row in rows], np.float64) for metric in MASK_METRICS}


def _of_one(predicted: Mask, truth: Mask, rules: MaskRules, spacing_mm: float | None) -> dict[MaskMetric, float]:
    matching = match_regions(predicted, truth, rules.lesion_overlap)
    small = rules.small_lesion_percent / 100 * truth.size
    values: dict[MaskMetric, float] = {
        "dice": math.nan,
        "iou": math.nan,
        "surface_dice": math.nan,
        "hd95": math.nan,
        "lesion_sensitivity": matching.sensitivity(),
        "small_lesion_sensitivity": matching.sensitivity(small),
        "false_positives_per_image": float(matching.false_positives),
    }
    if not len(matching.sizes):
        return values
    px, tolerance = (1.0, rules.surface_tolerance_px)
    if spacing_mm is not None:
        px, tolerance = spacing_mm, rules.surface_tolerance_mm / spacing_mm
    values["dice"] = float(dice(predicted[None], truth[None])[0])
    values["iou"] = float(iou(predicted[None], truth[None])[0])
    distances = surface_distances(predicted, truth)
    values["surface_dice"] = distances.surface_dice(tolerance) if distances else 0.0
    values["hd95"] = px * (distances.hd95() if distances else math.hypot(*truth.shape))
    return values
