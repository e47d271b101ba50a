"""Simulated studies with known truth: type-I error of non-inferiority at the margin, and coverage of the intervals.

Tolerances are the nominal value plus or minus about three binomial standard errors of the simulation, and a little
more for the bootstrap, whose nominal level is approximate.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
from scipy.stats import norm

from medfm_compress.bench.stats.auroc import clustered_areas, difference_interval
from medfm_compress.bench.stats.bootstrap import interval, p_below, resample
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics

MARGIN = 0.05


def test_auroc_at_the_margin_with_several_images_a_patient() -> None:
    # Binormal scores with a patient effect: AUROC = Φ(μ / sqrt(2 · variance)). Teacher .90, bundle exactly .85.
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(150), 2)
    truth = (np.arange(300) // 2 % 3 == 0).astype(np.int64)
    means = norm.ppf([0.90, 0.90 - MARGIN])[:, None] * sqrt(2)
    false_passes, covered, studies = 0, 0, 1500
    for _ in range(studies):
        shared = sqrt(0.3) * rng.normal(size=150)[clusters] + sqrt(0.4) * rng.normal(size=300)
        scores = shared + sqrt(0.3) * rng.normal(size=(2, 300)) + means * truth
        found = difference_interval(clustered_areas(scores, truth, clusters), 0.95)
        false_passes += found.low > -MARGIN
        covered += found.low <= -MARGIN <= found.high
    assert 0.012 <= false_passes / studies <= 0.040
    assert 0.930 <= covered / studies <= 0.966


def test_sensitivity_at_the_margin() -> None:
    # Correlated decisions of 200 positives: sensitivities Φ(0.9) and Φ(0.9) − margin.
    rng = np.random.default_rng(1)
    ends = np.array([norm.ppf(norm.cdf(0.9)), norm.ppf(norm.cdf(0.9) - MARGIN)])[:, None]
    truth, cases = np.ones(200, dtype=np.int64), np.arange(200)
    false_passes, false_fails, covered, studies = 0, 0, 0, 500
    for number in range(studies):
        latent = sqrt(0.7) * rng.normal(size=200) + sqrt(0.3) * rng.normal(size=(2, 200))
        sample = Sample(latent, (latent < ends).astype(np.int64), truth, cases)
        statistic = WeightedMetrics(sample, ("sensitivity",))
        found = resample(statistic, truth, cases=200, resamples=1000, seed=(number,))
        change = found.of(lambda values: values[..., 1, 0] - values[..., 0, 0])
        ends_found = interval(change, 0.95)
        assert ends_found is not None
        false_passes += ends_found.low > -MARGIN
        covered += ends_found.low <= -MARGIN <= ends_found.high
        false_fails += p_below(change, -MARGIN) <= 0.025
    assert 0.005 <= false_passes / studies <= 0.050
    assert 0.005 <= false_fails / studies <= 0.055
    assert 0.915 <= covered / studies <= 0.975


def test_average_precision_covers_its_difference() -> None:
    # The truth is the value in a very large sample from the same population.
    rng = np.random.default_rng(2)

    def draw(cases: int) -> Sample:
        truth = (np.arange(cases) % 4 == 0).astype(np.int64)
        latent = rng.normal(size=cases) * 0.8 + rng.normal(size=(2, cases)) * 0.6
        scores = latent + np.array([[1.8], [1.5]]) * truth
        return Sample(scores, (scores > 1).astype(np.int64), truth, np.arange(cases))

    teacher, bundle = WeightedMetrics(draw(400_000), ("auprc",)).unweighted()[:, 0]
    covered, studies = 0, 250
    for number in range(studies):
        sample = draw(200)
        statistic = WeightedMetrics(sample, ("auprc",))
        found = resample(statistic, sample.truth, cases=200, resamples=500, seed=(number,))
        ends = interval(found.of(lambda values: values[..., 1, 0] - values[..., 0, 0]), 0.95)
        assert ends is not None
        covered += ends.low <= bundle - teacher <= ends.high
    assert 0.90 <= covered / studies <= 0.985
