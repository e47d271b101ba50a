"""Pixel AUROC and per-region overlap against scikit-learn and a plain re-implementation over every threshold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import auc, roc_auc_score

from medfm_compress.bench.stats.place_ranking import FALSE_POSITIVE_LIMIT, PlaceRanking


def scene(seed: int, cases: int = 12, side: int = 40, strength: float = 1.0):
    """Smooth maps, and masks of some discs in every other case; scores are higher in them by ``strength``."""
    random = np.random.default_rng(seed)
    maps, masks = [], []
    rows, columns = np.mgrid[:side, :side]
    for number in range(cases):
        mask = np.zeros((side, side), bool)
        for _ in range(int(random.integers(1, 4)) if number % 2 else 0):
            row, column, radius = (int(value) for value in (*random.integers(4, side - 4, 2), random.integers(1, 6)))
            mask |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
        noise = ndimage.gaussian_filter(random.normal(size=(side, side)), 1.5) * 4
        maps.append((noise + strength * mask).astype(np.float32))
        masks.append(mask)
    return maps, masks


def plain_pro(maps, masks):
    """Mean over regions of the area under overlap over FPR up to the limit, every score a threshold; per region."""
    normal = np.sort(np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)]))
    thresholds = np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]
    fpr = np.concatenate([[0], 1 - np.searchsorted(normal, thresholds, side="left") / len(normal)])
    values = []
    for m, mask in zip(maps, masks, strict=True):
        numbers, count = ndimage.label(mask, np.ones((3, 3)))
        own = []
        for region in range(1, count + 1):
            inside = np.sort(m[numbers == region])
            overlap = np.concatenate([[0], 1 - np.searchsorted(inside, thresholds, side="left") / len(inside)])
            kept = fpr <= FALSE_POSITIVE_LIMIT
            at = np.interp(FALSE_POSITIVE_LIMIT, fpr, overlap)
            x, y = np.append(fpr[kept], FALSE_POSITIVE_LIMIT), np.append(overlap[kept], at)
            own.append(auc(x, y) / FALSE_POSITIVE_LIMIT)
        values.append(own)
    return values


def ranked(maps, masks):
    ranking = PlaceRanking(maps)
    for m, mask in zip(maps, masks, strict=True):
        ranking.add(m, mask)
    return ranking


@pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
def test_the_mean_by_pixels_is_sklearns_auroc_of_all_pixels(strength):
    maps, masks = scene(1, strength=strength)
    values = ranked(maps, masks).pixel_auroc()
    weights = np.array([mask.sum() for mask in masks])
    whole = roc_auc_score(np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps]))

    assert np.isnan(values[::2]).all() and np.isfinite(values[1::2]).all()
    assert np.average(values[1::2], weights=weights[1::2]) == pytest.approx(whole, abs=2e-4)


def test_each_case_is_ranked_against_the_normal_pixels_of_all():
    maps, masks = scene(2)
    values = ranked(maps, masks).pixel_auroc()
    normal = np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)])
    inside = maps[3][masks[3]]
    truth = np.concatenate([np.zeros(len(normal)), np.ones(len(inside))])

    assert values[3] == pytest.approx(roc_auc_score(truth, np.concatenate([normal, inside])), abs=2e-4)


@pytest.mark.parametrize("strength", [0.0, 0.5, 3.0])
def test_per_region_overlap_is_that_of_every_threshold(strength):
    maps, masks = scene(3, strength=strength)
    values, plain = ranked(maps, masks).pro(), plain_pro(maps, masks)

    for value, regions in zip(values, plain, strict=True):
        assert np.isnan(value) if not regions else value == pytest.approx(np.mean(regions), abs=1e-3)


def test_a_perfect_map_and_a_useless_one():
    masks = scene(4)[1]
    perfect = ranked([mask.astype(np.float32) for mask in masks], masks)
    flat = ranked([np.zeros(mask.shape, np.float32) for mask in masks], masks)

    np.testing.assert_allclose(perfect.pro()[1::2], 1)
    np.testing.assert_allclose(perfect.pixel_auroc()[1::2], 1)
    np.testing.assert_allclose(flat.pixel_auroc()[1::2], 0.5)
    np.testing.assert_allclose(flat.pro()[1::2], FALSE_POSITIVE_LIMIT / 2)  # a straight line to (1, 1)


def test_what_was_not_seen_is_below_all_else():
    maps, masks = scene(5)
    hidden = [m.copy() for m in maps]
    hidden[1][masks[1]] = np.nan
    values = ranked(hidden, masks)

    assert values.pixel_auroc()[1] < 0.02 and values.pro()[1] < 0.02
    with_places = PlaceRanking(maps)
    for m, mask in zip(hidden, masks, strict=True):
        with_places.add(m, mask)
    assert with_places.pro()[1] < 0.02


def test_a_case_that_nobody_drew_counts_for_nothing():
    maps, masks = scene(6)
    drawn = ranked(maps[:-1], masks[:-1])
    ranking = PlaceRanking(maps[:-1])
    for m, mask in zip(maps, [*masks[:-1], None], strict=True):
        ranking.add(m, mask)

    np.testing.assert_array_equal(ranking.pro()[:-1], drawn.pro())
    assert np.isnan(ranking.pro()[-1])


def test_no_normal_pixel_anywhere_gives_no_value():
    maps = [np.arange(4, dtype=np.float32).reshape(2, 2)]
    assert np.isnan(ranked(maps, [np.ones((2, 2), bool)]).pro()).all()
    assert np.isnan(ranked(maps, [np.ones((2, 2), bool)]).pixel_auroc()).all()
