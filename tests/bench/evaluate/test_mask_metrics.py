"""Metrics of one case: what is defined where a mask is empty, and units."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medfm_compress.bench.evaluate.mask_metrics import mask_metrics
from medfm_compress.bench.types.mask_rules import MaskRules
from medfm_compress.runtime.errors import InputError

RULES = MaskRules()
EMPTY = np.zeros((30, 40), np.uint8)


def spot(top: int = 10, left: int = 10, number: int = 1) -> np.ndarray:
    shown = EMPTY.copy()
    shown[top : top + 8, left : left + 8] = number
    return shown


def test_the_same_mask_is_right() -> None:
    values = mask_metrics(spot(), spot(), 1, RULES)
    assert [values[m][0] for m in ("dice", "iou", "surface_dice", "lesion_sensitivity")] == [1, 1, 1, 1]
    assert (values["hd95"][0], values["false_positives_per_image"][0]) == (0, 0)


def test_a_structure_that_was_not_drawn_has_the_worst_values() -> None:
    values = mask_metrics(EMPTY, spot(), 1, RULES)
    assert [values[m][0] for m in ("dice", "iou", "surface_dice", "lesion_sensitivity")] == [0, 0, 0, 0]
    assert values["hd95"][0] == math.hypot(30, 40)


@pytest.mark.parametrize("drawn", [EMPTY, spot()])
def test_where_the_truth_is_empty_only_false_positives_count(drawn: np.ndarray) -> None:
    values = mask_metrics(drawn, EMPTY, 1, RULES)
    assert values.pop("false_positives_per_image")[0] == drawn.any()
    assert all(math.isnan(value[0]) for value in values.values())


def test_distances_are_in_mm_where_the_spacing_is_known() -> None:
    moved, rules = spot(left=14), MaskRules(surface_tolerance_px=2, surface_tolerance_mm=2)
    in_px, in_mm = (mask_metrics(moved, spot(), 1, rules, spacing) for spacing in (None, 0.5))
    assert in_mm["hd95"][0] == in_px["hd95"][0] / 2
    assert in_mm["surface_dice"][0] == 1 > in_px["surface_dice"][0]


def test_structures_are_judged_apart() -> None:
    truth, drawn = np.maximum(spot(), spot(left=25, number=2)), np.maximum(spot(), spot(left=25, number=1))
    values = mask_metrics(drawn, truth, 2, RULES)
    assert values["dice"].tolist() == [pytest.approx(2 / 3), 0]
    assert values["false_positives_per_image"].tolist() == [1, 0]


def test_maps_of_two_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="both are of one image"):
        mask_metrics(EMPTY[:10], EMPTY, 1, RULES)


def test_rules_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="lesion_overlap is 0; it must be above 0"):
        MaskRules(lesion_overlap=0)
