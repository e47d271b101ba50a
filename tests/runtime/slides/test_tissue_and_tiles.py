"""Overview, tissue, tiles: in bounded blocks, at a declared resolution, and nothing that nobody saw is glass."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.errors import ImageRefused
from medfm_compress.runtime.slides import overview as overview_module
from medfm_compress.runtime.slides.overview import Overview, overview
from medfm_compress.runtime.slides.pictures import overlay
from medfm_compress.runtime.slides.settings import SlideSettings
from medfm_compress.runtime.slides.table import open_slide
from medfm_compress.runtime.slides.tiling import make_tiling, shown_tissue, tissue_tiles
from medfm_compress.runtime.slides.tissue import opened, otsu_threshold, tissue_mask


def test_otsu_is_the_threshold_of_scikit_image_or_of_brute_force():
    rng = np.random.default_rng(0)
    values = np.clip(np.concatenate([rng.normal(0.1, 0.03, 4000), rng.normal(0.5, 0.1, 1500)]), 0, 1)
    counts, edges = np.histogram(values, 256, (0, 1))
    middles = (edges[:-1] + edges[1:]) / 2

    def within(split):
        parts = [(counts[:split], middles[:split]), (counts[split:], middles[split:])]
        return sum((n * (m - (n * m).sum() / n.sum()) ** 2).sum() for n, m in parts if n.sum())

    best = min(range(1, 256), key=within)
    assert otsu_threshold(values) == pytest.approx(edges[best], abs=1e-9)


def test_glass_within_a_tile_of_tissue_has_no_colour():
    picture = np.full((64, 64, 3), 243, np.uint8)
    picture[:, :8] = (180, 90, 160)  # the rim of tissue, an eighth of each tile
    seen = Overview(picture, np.zeros((64, 64), bool), (8.0, 8.0))
    tissue = shown_tissue(seen, SlideSettings(tile_um_per_px=1.0))
    shown = overlay(seen, np.full((1, 1), 200, np.uint8), (1.0, 1.0), tissue)
    assert (shown[:, 12:] == 243).all()
    assert (shown[:, :8] != picture[:, :8]).any(axis=2).all()
    everything = SlideSettings(tile_um_per_px=1.0, tissue="everything")
    assert shown_tissue(seen, everything) is None
    assert (overlay(seen, np.full((1, 1), 200, np.uint8), (1.0, 1.0)) != picture).any(axis=2).all()


def test_opening_takes_dust_and_keeps_what_is_large():
    mask = np.zeros((30, 30), bool)
    mask[5, 5] = True
    mask[10:20, 10:20] = True
    expected = mask.copy()
    expected[5, 5] = False
    assert np.array_equal(opened(mask), expected)
    assert opened(np.ones((4, 4), bool)).all() and not opened(np.zeros((4, 4), bool)).any()


def test_tissue_is_what_is_stained(picture):
    mask = tissue_mask(picture, np.zeros(picture.shape[:2], bool))
    assert mask[100:500, 200:700].mean() > 0.97 and mask.mean() < 0.33


@pytest.mark.parametrize("colour", [(243, 243, 243), (0, 0, 0), (10, 2, 20)])
def test_glass_and_ink_alone_have_no_tissue(colour):
    noise = np.random.default_rng(0).integers(0, 3, (60, 60, 1))
    blank = np.clip(np.full((60, 60, 3), colour) + noise, 0, 255).astype(np.uint8)
    assert not tissue_mask(blank, np.zeros((60, 60), bool)).any()


def test_a_slide_of_tissue_alone_is_all_tissue(picture):
    stained = picture[100:500, 200:700]
    assert tissue_mask(stained, np.zeros(stained.shape[:2], bool)).mean() > 0.97


@pytest.mark.parametrize("side", [900, 220, 64])
def test_the_overview_is_the_mean_of_its_cells(scene, picture, tmp_path, monkeypatch, side):
    monkeypatch.setattr(overview_module, "SIDE_PX", side)
    monkeypatch.setattr(overview_module, "_BLOCK_PX", 130)
    path = scene.write_deflate(tmp_path / "slide.tif", picture, levels=1)
    factor = -(-900 // side)
    with open_slide(path) as slide:
        seen = overview(slide)
    rows, columns = range(0, 700, factor), range(0, 900, factor)
    if factor == 1:
        expected = picture
    else:
        expected = np.array([[picture[y : y + factor, x : x + factor].mean((0, 1)) for x in columns] for y in rows])
    assert np.abs(seen.picture - expected).max() <= 0.51 and not seen.unread.any()
    assert seen.scale == (factor, factor)


def test_what_cannot_be_read_is_marked_and_counts_as_tissue(scene, picture, tmp_path):
    path = scene.write_deflate(tmp_path / "slide.tif", picture, levels=1)
    scene.damage_tile(path, 5 * 8 + 7)  # glass, in the lower right corner
    settings = SlideSettings(tile_um_per_px=1.0)
    with open_slide(path) as slide:
        seen = overview(slide)
        tiling = make_tiling(slide, (0.5, 0.5), scene.SPEC, settings, (8, 8))
        tiles = tissue_tiles(tiling, seen, settings)
    assert seen.unread[640:700, 896:900].all() and not seen.unread[:630].any() and not seen.unread[:, :890].any()
    assert 10 * tiling.columns + 14 in tiles  # reaches into what was not read
    assert 0 not in tiles


def test_tiles_are_read_at_the_declared_resolution_from_the_next_finer_level(scene, picture, tmp_path):
    path = scene.write_deflate(tmp_path / "slide.tif", picture, levels=3)
    with open_slide(path) as slide:
        for resolution, level, side in ((0.5, 0, 32), (0.9, 0, 58), (1.0, 1, 32), (1.9, 1, 61), (2.0, 2, 32)):
            settings = SlideSettings(tile_um_per_px=resolution)
            tiling = make_tiling(slide, (0.5, 0.5), scene.SPEC, settings, (8, 8))
            region = tiling.read(slide, 1, 2)
            assert tiling.level == level and region.shape == (side, side, 3)
            step = 2**level
            top, left = round(tiling.side[0] / step), round(2 * tiling.side[1] / step)
            assert np.array_equal(region, picture[::step, ::step][top : top + side, left : left + side])


def test_a_slide_is_never_enlarged(scene, picture, tmp_path):
    path = scene.write_deflate(tmp_path / "slide.tif", picture)
    with open_slide(path) as slide:
        make_tiling(slide, (0.5, 0.5), scene.SPEC, SlideSettings(tile_um_per_px=0.46), (8, 8))
        with pytest.raises(ImageRefused, match="never enlarged"):
            make_tiling(slide, (0.5, 0.5), scene.SPEC, SlideSettings(tile_um_per_px=0.25), (8, 8))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
def test_tiles_cover_the_slide_and_overlap_as_declared(scene, picture, tmp_path, overlap):
    path = scene.write_deflate(tmp_path / "slide.tif", picture)
    settings = SlideSettings(tile_um_per_px=1.0, overlap=overlap)
    with open_slide(path) as slide:
        tiling = make_tiling(slide, (0.5, 0.5), scene.SPEC, settings, (8, 8))
    covered = np.zeros((700, 900), int)
    for row in range(tiling.rows):
        for column in range(tiling.columns):
            box = tiling.box(row, column)
            assert box.width > 0 and box.height > 0
            covered[box.y : box.y + box.height, box.x : box.x + box.width] += 1
    assert (covered.min() >= 1 and covered[300, 400] == round(1 / (1 - overlap)) ** 2) or overlap == 0.25
    assert tiling.step == (round(8 * (1 - overlap)),) * 2
