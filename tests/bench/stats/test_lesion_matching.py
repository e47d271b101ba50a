"""Matching of regions against SciPy's labels, brute force, and panoptica's naive threshold matching."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from medfm_compress.bench.stats.lesion_matching import match_regions, number_regions
from tests.bench.stats.masks import blobs, named_masks, pairs

EIGHT = np.ones((3, 3), int)


def test_regions_are_scipys() -> None:
    for mask in named_masks().values():
        ours, sizes = number_regions(mask)
        theirs, count = ndimage.label(mask, EIGHT)
        np.testing.assert_array_equal(ours, theirs)
        assert sizes.tolist() == np.bincount(theirs.ravel(), minlength=count + 1)[1:].tolist()


def test_pairs_are_those_of_brute_force() -> None:
    for predicted, truth in pairs():
        drawn, true = ndimage.label(predicted, EIGHT)[0], ndimage.label(truth, EIGHT)[0]
        table = [
            (((drawn == p) & (true == t)).sum() / ((drawn == p) | (true == t)).sum(), t, p)
            for t in range(1, true.max() + 1)
            for p in np.unique(drawn[(true == t) & (drawn > 0)])
        ]
        found: set[int] = set()
        taken: set[int] = set()
        for share, t, p in sorted(table, key=lambda row: (-row[0], row[1], row[2])):
            if share >= 0.1 and t not in found and p not in taken:
                found.add(t)
                taken.add(int(p))
        ours = match_regions(predicted, truth, 0.1)
        assert {int(number) + 1 for number in np.flatnonzero(ours.found)} == found
        assert ours.false_positives == drawn.max() - len(taken)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_panoptica_counts_the_same(threshold: float) -> None:
    pytest.importorskip("plotly")  # without it panoptica cannot be imported
    panoptica = pytest.importorskip("panoptica")
    evaluator = panoptica.Panoptica_Evaluator(
        expected_input=panoptica.InputType.SEMANTIC,
        instance_approximator=panoptica.ConnectedComponentsInstanceApproximator(),
        instance_matcher=panoptica.NaiveThresholdMatching(matching_threshold=threshold),
    )
    for seed in range(6):
        # panoptica's regions hang together over sides only: masks of which none touch at a corner alone.
        predicted, truth = (ndimage.binary_opening(blobs(seed, count=count), iterations=2) for count in (5, 4))
        result = evaluator.evaluate(predicted.astype(np.uint8), truth.astype(np.uint8), verbose=False)["ungrouped"]
        ours = match_regions(predicted, truth, threshold)
        assert (int(ours.found.sum()), ours.false_positives) == (result.tp, result.fp)
        assert ours.sensitivity() == pytest.approx(result.tp / (result.tp + result.fn))


def test_two_regions_drawn_as_one_are_one_found() -> None:
    truth = np.zeros((9, 20), bool)
    truth[2:7, 1:8], truth[2:7, 11:18] = True, True
    joined = truth.copy()
    joined[4, 8:11] = True
    together = match_regions(joined, truth, 0.1)
    assert (together.sensitivity(), together.false_positives) == (0.5, 0)
    apart = match_regions(truth, joined, 0.1)
    assert (apart.sensitivity(), apart.false_positives) == (1.0, 1)


def test_small_regions_are_counted_apart() -> None:
    truth = np.zeros((20, 20), bool)
    truth[:10, :10], truth[15, 15] = True, True
    drawn = truth.copy()
    drawn[15, 15] = False
    matching = match_regions(drawn, truth, 0.1)
    assert (matching.sensitivity(), matching.sensitivity(50), matching.false_positives) == (0.5, 0.0, 0)
    assert math.isnan(match_regions(drawn, drawn, 0.1).sensitivity(50))


def test_nothing_true_and_nothing_drawn() -> None:
    nothing, something = np.zeros((6, 6), bool), np.eye(6, dtype=bool)
    assert math.isnan(match_regions(something, nothing, 0.1).sensitivity())
    assert match_regions(something, nothing, 0.1).false_positives == 1
    assert match_regions(nothing, something, 0.1).sensitivity() == 0
