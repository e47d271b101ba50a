"""Dice against scikit-learn and SciPy, and the clustered comparison of its mean."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import dice as dissimilarity
from sklearn.metrics import f1_score

from medfm_compress.bench.stats.bootstrap import interval
from medfm_compress.bench.stats.case_means import resample_mean
from medfm_compress.bench.stats.overlap import dice, iou
from medfm_compress.runtime.errors import InputError
from tests.bench.stats.masks import pairs


def test_sklearn_and_scipy_agree_on_every_case() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.random((2, 12, 9, 7)) < 0.3
    for ours, p, t in zip(dice(predicted, truth), predicted, truth, strict=True):
        assert ours == pytest.approx(f1_score(t.ravel(), p.ravel()))
        assert ours == pytest.approx(1 - dissimilarity(t.ravel(), p.ravel()))


def test_monai_agrees_on_every_pair() -> None:
    torch = pytest.importorskip("torch")
    metrics = pytest.importorskip("monai.metrics")
    for predicted, truth in pairs():
        tensors = [torch.from_numpy(mask[None, None]) for mask in (predicted, truth)]
        assert dice(predicted[None], truth[None])[0] == pytest.approx(float(metrics.compute_dice(*tensors)))
        assert iou(predicted[None], truth[None])[0] == pytest.approx(float(metrics.compute_iou(*tensors)))


def test_empty_masks() -> None:
    nothing, something = np.zeros((1, 4, 4), bool), np.eye(4, dtype=bool)[None]
    assert dice(nothing, nothing).tolist() == [1]
    assert dice(something, nothing).tolist() == [0]
    assert dice(nothing, something).tolist() == [0]
    assert dice(something, something).tolist() == [1]
    assert iou(nothing, nothing).tolist() == [1]
    assert iou(something, nothing).tolist() == iou(nothing, something).tolist() == [0]


def test_the_mean_difference_of_single_cases_is_scipys_bootstrap() -> None:
    rng = np.random.default_rng(1)
    teacher = rng.beta(8, 2, 60)
    bundle = np.clip(teacher + rng.normal(-0.02, 0.05, 60), 0, 1)
    resampled = resample_mean(np.stack([teacher, bundle]), np.arange(60), resamples=10_000)
    ours = interval(resampled.of(lambda v: v[..., 1] - v[..., 0])._replace(clusters=()), 0.95)
    theirs = stats.bootstrap(
        (bundle - teacher,), np.mean, n_resamples=10_000, method="BCa", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours is not None
    assert ours.estimate == pytest.approx((bundle - teacher).mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=6e-4)


def test_slices_of_one_patient_are_no_more_patients() -> None:
    values = np.random.default_rng(3).beta(8, 2, (2, 40))
    once = interval(resample_mean(values, np.arange(40)).of(lambda v: v[..., 0]), 0.95)
    sliced = interval(
        resample_mean(np.repeat(values, 6, axis=1), np.repeat(np.arange(40), 6)).of(lambda v: v[..., 0]), 0.95
    )
    assert once is not None and sliced is not None
    assert (once.low, once.high) == pytest.approx((sliced.low, sliced.high))


def test_masks_and_values_that_mean_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        dice(np.zeros((2, 3, 3), bool), np.zeros((2, 3, 4), bool))
    with pytest.raises(InputError, match="threshold"):
        dice(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="lengths"):
        resample_mean(np.zeros((2, 3)), np.arange(4))
    with pytest.raises(InputError, match="1 values are not finite"):
        resample_mean(np.array([[0.5, np.nan]]), np.arange(2))
