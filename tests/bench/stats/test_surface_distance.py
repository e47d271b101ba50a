"""Surface Dice and HD95 against MONAI (equal) and DeepMind's surface-distance (which weighs boundary elements)."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.bench.stats.surface_distance import boundary, surface_distances
from tests.bench.stats.masks import blobs, named_masks, pairs

pytestmark = pytest.mark.filterwarnings("ignore")  # of the two peers, about their own dependencies


def test_monai_gives_the_same() -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    for predicted, truth in pairs():
        tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (predicted, truth)]
        ours = surface_distances(predicted, truth)
        assert ours is not None
        theirs = metrics.compute_hausdorff_distance(*tensors, include_background=True, percentile=95)
        assert ours.hd95() == pytest.approx(float(theirs), abs=1e-4)
        for tolerance in (0.0, 1.0, 2.5):
            share = metrics.compute_surface_dice(*tensors, class_thresholds=[tolerance], include_background=True)
            assert ours.surface_dice(tolerance) == pytest.approx(float(share), abs=1e-6)


def test_deepminds_measure_differs_by_less_than_a_pixel() -> None:
    package = pytest.importorskip("surface_distance")
    for seed in range(6):
        predicted, truth = blobs(seed), blobs(seed, count=3)
        theirs = package.compute_surface_distances(truth, predicted, spacing_mm=(1, 1))
        ours = surface_distances(predicted, truth)
        assert ours is not None
        assert ours.hd95() == pytest.approx(package.compute_robust_hausdorff(theirs, 95), abs=1)
        assert ours.surface_dice(2) == pytest.approx(package.compute_surface_dice_at_tolerance(theirs, 2), abs=0.06)


def test_distances_are_those_of_all_pairs() -> None:
    for predicted, truth in pairs():
        ours = surface_distances(predicted, truth)
        assert ours is not None
        first, second = (np.argwhere(boundary(mask)).astype(float) for mask in (predicted, truth))
        between = np.hypot(*(first[:, None] - second[None]).transpose(2, 0, 1))
        np.testing.assert_allclose(ours.of_predicted, between.min(axis=1))
        np.testing.assert_allclose(ours.of_truth, between.min(axis=0))


def test_an_empty_mask_has_no_distance() -> None:
    something = named_masks()["line"]
    nothing = np.zeros_like(something)
    assert surface_distances(nothing, something) is None
    assert surface_distances(something, nothing) is None
    assert surface_distances(nothing, nothing) is None


def test_what_touches_the_border_has_its_boundary_there() -> None:
    full = np.ones((5, 7), bool)
    assert boundary(full).sum() == 2 * (5 + 7) - 4
