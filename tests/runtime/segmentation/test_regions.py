"""Regions and outlines, held against scipy and against the mask itself."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from medfm_compress.runtime.segmentation.contours import contours, signed_area
from medfm_compress.runtime.segmentation.regions import regions_of
from medfm_compress.runtime.segmentation.result import Segmentation

SHAPES = [(1, 1), (1, 17), (19, 1), (40, 53)]


def masks():
    rng = np.random.default_rng(0)
    for share in (0.0, 0.05, 0.3, 0.5, 0.8, 1.0):
        for shape in SHAPES:
            yield rng.random(shape) < share
    yield ndimage.gaussian_filter(rng.random((90, 70)), 3) > 0.5


def test_regions_are_scipys() -> None:
    for mask in masks():
        labelled, count = ndimage.label(mask, np.ones((3, 3)))
        mine = regions_of(mask, area_of_px_mm2=0.25)
        assert len(mine) == count
        assert [region.area_px for region in mine] == sorted((region.area_px for region in mine), reverse=True)
        theirs = {}
        for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), start=1):
            shown = labelled == number
            middle = ndimage.center_of_mass(shown)
            box = (rows.start, columns.start, rows.stop, columns.stop)
            theirs[box, int(shown.sum())] = middle
        for region in mine:
            middle = theirs[(region.top, region.left, region.bottom, region.right), region.area_px]
            assert (region.row, region.column) == pytest.approx(middle) or count > 1
            assert region.area_mm2 == region.area_px * 0.25


def test_outlines_enclose_exactly_the_mask() -> None:
    for mask in masks():
        rings = contours(mask)
        areas = [signed_area(ring) for ring in rings]
        assert sum(areas) == mask.sum()
        assert sum(area > 0 for area in areas) == ndimage.label(mask, np.ones((3, 3)))[1]
        assert sum(area < 0 for area in areas) == ndimage.label(~np.pad(mask, 1))[1] - 1


def test_a_drawn_outline_is_the_mask_again() -> None:
    y, x = np.mgrid[:60, :80]
    mask = (np.hypot(y - 30, x - 40) < 20) & ~(np.hypot(y - 30, x - 45) < 6)
    outer, hole = contours(mask)
    drawn = Image.new("L", (800, 600))
    pen = ImageDraw.Draw(drawn)
    pen.polygon([(10 * px, 10 * py) for px, py in outer.tolist()], fill=1)
    pen.polygon([(10 * px, 10 * py) for px, py in hole.tolist()], fill=0)
    assert np.array_equal(np.asarray(drawn)[5::10, 5::10] > 0, mask)


def test_pixels_that_touch_at_a_corner_are_one_region_and_one_ring() -> None:
    mask = np.eye(3, dtype=bool)
    assert [region.area_px for region in regions_of(mask)] == [3]
    (ring,) = contours(mask)
    assert signed_area(ring) == 3


def test_areas_are_in_mm2_where_the_distance_of_pixels_is_known() -> None:
    label_map = np.zeros((10, 10), np.uint8)
    label_map[:2, :5], label_map[8:, 9] = 1, 3
    plain = Segmentation(label_map, ("a", "b", "c"))
    assert plain.area_px == {"a": 10, "b": 0, "c": 2}
    assert plain.area_mm2 is None
    assert [len(found) for found in plain.regions.values()] == [1, 0, 1]
    measured = Segmentation(label_map, ("a", "b", "c"), spacing_mm=0.5)
    assert measured.area_mm2 == {"a": 2.5, "b": 0.0, "c": 0.5}
    assert measured.summary()["regions"]["c"][0]["area_mm2"] == 0.5
    with pytest.raises(ValueError, match="read-only"):
        measured.label_map[0, 0] = 2
