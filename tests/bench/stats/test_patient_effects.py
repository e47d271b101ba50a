"""Each patient's effect against the derivative of the metric by that patient's weight."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.bench.stats.metrics import RANKED, Sample, WeightedMetrics
from medfm_compress.bench.stats.patient_effects import has_effects, own_effects, paired_effects
from medfm_compress.bench.stats.score_interval import least_loss, score_interval
from medfm_compress.bench.types.metric import METRICS, Metric

EFFECTIVE = [metric for metric in METRICS if has_effects(metric)]


def a_sample(*, images: int, seed: int = 0, cases: int = 240) -> Sample:
    """Two models' probabilities with many ties; with several images, a patient may have cases of both classes."""
    rng = np.random.default_rng(seed)
    clusters = np.unique(
        rng.integers(0, cases // images, cases) if images > 1 else np.arange(cases), return_inverse=True
    )
    truth = (rng.random(cases) < 0.3).astype(np.int64)
    latent = rng.normal(size=cases) + 2 * truth - 1
    noisy = 0.9 * latent + 0.4 * rng.normal(size=cases)
    scores = (1 / (1 + np.exp(-np.stack([latent, noisy])))).round(2)
    return Sample(scores, (scores > 0.5).astype(np.int64), truth, clusters[1])


def derivative(sample: Sample, metric: Metric) -> np.ndarray:
    """By central differences over the patients' weights: [2, patients]."""
    statistic, step = WeightedMetrics(sample, (metric,)), 1e-5
    moves = step * np.eye(statistic.clusters)
    return (statistic(1 + moves) - statistic(1 - moves))[:, :, 0].T / (2 * step)


# Effects on ranks are centred by class, and with several images a patient may have cases of both.
SAMPLES = [(metric, images) for metric in EFFECTIVE for images in (1, 3) if images == 1 or metric not in RANKED]


@pytest.mark.parametrize(("metric", "images"), SAMPLES)
def test_effects_are_the_derivatives_by_the_patients_weights(metric: Metric, images: int) -> None:
    sample = a_sample(images=images)
    values = WeightedMetrics(sample, (metric,)).unweighted()[:, 0]
    slopes = derivative(sample, metric)
    ill = np.unique(sample.clusters[sample.truth == 1])
    for effects, expected, estimate in (
        (paired_effects(sample, metric), slopes[1] - slopes[0], values[1] - values[0]),
        (own_effects(sample, 1, metric), slopes[1], values[1]),
    ):
        if metric in RANKED:
            for label in (0, 1):
                expected[sample.truth == label] -= expected[sample.truth == label].mean()
        healthy = np.unique(sample.clusters[sample.truth == 0])
        used = {"sensitivity": ill, "specificity": healthy}.get(metric, np.arange(len(expected)))
        assert effects.estimate == pytest.approx(estimate)
        assert effects.patients == pytest.approx(expected[used] * len(used), abs=1e-6)


@pytest.mark.parametrize("metric", EFFECTIVE)
def test_a_lost_patient_lies_below_all_and_effects_sum_to_nothing(metric: Metric) -> None:
    for images in (1, 3):
        effects = paired_effects(a_sample(images=images), metric)
        assert effects.patients.mean() == pytest.approx(0, abs=1e-12)
        assert effects.worst < 0 < effects.best
        assert effects.worst < 2 * effects.patients.std() * -1
        interval = score_interval(effects, 0.95)
        assert interval.low <= effects.estimate - least_loss(effects, 0.025) + 1e-12
        assert interval.high >= effects.estimate + least_loss(effects, 0.025, errors=True) - 1e-12


@pytest.mark.parametrize("metric", ["sensitivity", "auroc", "brier", "balanced_accuracy"])
def test_losing_one_more_patient_moves_the_estimate_by_the_worst_effect(metric: Metric) -> None:
    # A teacher that has everything right, and one ill patient whom the bundle has wrong in every image.
    clusters = np.repeat(np.arange(200), 2)
    truth = (clusters < 80).astype(np.int64)
    perfect = np.where(truth == 1, 0.999, 0.001)
    lost = np.where(clusters == 0, 0.0, perfect)
    scores = np.stack([perfect, perfect])
    effects = paired_effects(Sample(scores, (scores > 0.5).astype(np.int64), truth, clusters), metric)
    scores[1] = lost
    after = paired_effects(Sample(scores, (scores > 0.5).astype(np.int64), truth, clusters), metric)
    moved = after.estimate - effects.estimate
    bound = effects.best if metric == "brier" else effects.worst
    assert moved == pytest.approx(bound / len(effects.patients), rel=0.02)


def test_images_of_one_patient_do_not_count_as_patients() -> None:
    single = a_sample(images=1)
    copies = Sample(*(np.tile(part, 5) for part in (single.scores, single.decisions, single.truth, single.clusters)))
    for metric in EFFECTIVE:
        once, five = (score_interval(paired_effects(sample, metric), 0.95) for sample in (single, copies))
        assert (five.low, five.high) == pytest.approx((once.low, once.high), abs=1e-9)
