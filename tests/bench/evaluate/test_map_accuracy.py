"""Pointing at masks, and areas of insertion and deletion, on cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.bench.evaluate.map_accuracy import insertion_deletion, points_at
from medfm_compress.runtime.errors import InputError


def test_pointing_is_the_share_of_the_highest_pixels_in_the_mask():
    mask = np.zeros((4, 4), np.uint8)
    mask[:2] = 1
    heat = np.zeros((4, 4))
    heat[1, 2] = 1
    assert points_at(heat, mask) == 1 and points_at(heat[::-1], mask) == 0
    assert points_at(np.ones((4, 4)), mask) == 0.5  # a map that says nothing points everywhere
    with pytest.raises(InputError, match="draws nothing"):
        points_at(heat, mask * 0)
    with pytest.raises(InputError, match="shape"):
        points_at(heat[:2], mask)


def test_the_right_map_loses_the_score_at_once_and_the_wrong_one_last():
    image = np.zeros((1, 1, 10, 10), np.float32)
    image[..., 2, 3:8] = 1.0

    def score(x):
        return float(x[0, 0, 2, 3:8].mean())

    right = insertion_deletion(score, image, image[0, 0])
    wrong = insertion_deletion(score, image, -image[0, 0])
    assert right.insertion > 0.9 and right.deletion < 0.2
    assert wrong.insertion < 0.2 and wrong.deletion > 0.9


def test_areas_are_by_trapezoids():
    random = np.random.default_rng(0)
    image = random.normal(size=(1, 2, 6, 6)).astype(np.float32)
    mean = image.mean(axis=(2, 3), keepdims=True)
    whole, blank = (float(np.abs(x - mean).sum()) for x in (image, np.broadcast_to(mean, image.shape)))
    areas = insertion_deletion(lambda x: float(np.abs(x - mean).sum()), image, random.normal(size=(6, 6)), steps=1)
    assert areas.insertion == areas.deletion == pytest.approx((whole + blank) / 2, rel=1e-5)
    with pytest.raises(InputError, match="steps"):
        insertion_deletion(lambda x: 0.0, image, image[0, 0], steps=0)
