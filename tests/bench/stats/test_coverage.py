"""Simulated studies with known truth: type-I error of non-inferiority at the margin, and coverage of the intervals.

Tolerances are the nominal value plus or minus about three binomial standard errors of the simulation, and a little
more for the bootstrap, whose nominal level is approximate. docs/results/statistics.md has larger simulations.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from scipy.stats import binom, multinomial, norm

from medfm_compress.bench.stats.auroc import Areas, clustered_areas
from medfm_compress.bench.stats.auroc_difference import area_difference, p_area_below
from medfm_compress.bench.stats.bootstrap import interval, resample
from medfm_compress.bench.stats.bootstrap_difference import change, p_share_below, share_difference
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.stats.tango import p_tango_below, tango

MARGIN = 0.05


def auroc_study(rng: np.random.Generator, positives: int, negatives: int, areas: tuple[float, float]) -> Areas:
    """Binormal scores, one case a patient; 70% of the variance in common."""
    cases = positives + negatives
    truth = (np.arange(cases) < positives).astype(np.int64)
    means = norm.ppf(areas)[:, None] * sqrt(2)
    scores = sqrt(0.7) * rng.normal(size=cases) + sqrt(0.3) * rng.normal(size=(2, cases)) + means * truth
    return clustered_areas(scores, truth, np.arange(cases))


@pytest.mark.parametrize(("positives", "negatives"), [(50, 100), (25, 200)])
def test_auroc_at_the_margin_with_few_patients(positives: int, negatives: int) -> None:
    # Teacher .95, bundle exactly .90. Wald's interval passes far more of them than ours.
    rng, studies = np.random.default_rng(positives), 800
    passes, fails, walds = 0, 0, 0
    for _ in range(studies):
        interval = area_difference(auroc_study(rng, positives, negatives, (0.95, 0.90)), 0.95)
        passes += interval.low > -MARGIN
        fails += interval.high < -MARGIN
        assert interval.standard_error is not None
        walds += interval.estimate - norm.ppf(0.975) * interval.standard_error > -MARGIN
    assert 0.010 <= passes / studies <= 0.045
    assert 0.010 <= fails / studies <= 0.040
    assert walds > 1.3 * passes


def test_auroc_at_the_margin_with_several_images_a_patient() -> None:
    # Binormal scores with a patient effect: AUROC = Φ(μ / sqrt(2 · variance)). Teacher .90, bundle exactly .85.
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(150), 2)
    truth = (np.arange(300) // 2 % 3 == 0).astype(np.int64)
    means = norm.ppf([0.90, 0.90 - MARGIN])[:, None] * sqrt(2)
    passes, covered, studies = 0, 0, 800
    for _ in range(studies):
        shared = sqrt(0.3) * rng.normal(size=150)[clusters] + sqrt(0.4) * rng.normal(size=300)
        scores = shared + sqrt(0.3) * rng.normal(size=(2, 300)) + means * truth
        interval = area_difference(clustered_areas(scores, truth, clusters), 0.95)
        passes += interval.low > -MARGIN
        covered += interval.low <= -MARGIN <= interval.high
    assert 0.012 <= passes / studies <= 0.040
    assert 0.930 <= covered / studies <= 0.970


def test_the_aurocs_p_value_is_uniform_at_the_margin() -> None:
    rng = np.random.default_rng(3)
    p = np.array([p_area_below(auroc_study(rng, 50, 100, (0.90, 0.85)), -MARGIN) for _ in range(80)])
    assert abs(p.mean() - 0.5) < 3 * sqrt(1 / 12 / len(p))
    assert abs((p < 0.2).mean() - 0.2) < 3 * sqrt(0.2 * 0.8 / len(p))


@pytest.mark.parametrize(("pairs", "lost", "gained"), [(50, 0.08, 0.03), (100, 0.06, 0.01), (200, 0.07, 0.02)])
def test_tangos_error_rates_by_summing_over_every_table(pairs: int, lost: float, gained: float) -> None:
    # No simulation: every possible table with its probability. The true difference is the margin.
    errors = np.zeros(2)
    for c in range(int(binom.ppf(1 - 1e-9, pairs, lost)) + 1):
        for b in range(int(binom.ppf(1 - 1e-9, pairs, gained)) + 1):
            chance = multinomial.pmf([c, b, pairs - b - c], pairs, [lost, gained, 1 - lost - gained])
            interval = tango(b, c, pairs)
            errors += chance * np.array([interval.low > -MARGIN, p_tango_below(b, c, pairs, -MARGIN) < 0.025])
    assert (errors > 0.005).all()
    assert (errors < 0.036).all()


BOOTSTRAPPED = ("auprc", "f1", "sensitivity", "brier")


def draw(rng: np.random.Generator, patients: int, images: int = 1) -> Sample:
    """Two models' probabilities; a quarter of the patients have the finding, in all of their images."""
    clusters = np.repeat(np.arange(patients), images)
    truth = (clusters % 4 == 0).astype(np.int64)
    within = 0.5 if images > 1 else 0.0
    common = sqrt(within) * rng.normal(size=patients)[clusters] + sqrt(1 - within) * rng.normal(size=len(truth))
    shifts = np.array([[1.9], [1.5]])
    latent = sqrt(0.6) * common + sqrt(0.4) * rng.normal(size=(2, len(truth))) + shifts * truth
    scores = 1 / (1 + np.exp(-(shifts * latent - shifts**2 / 2 - np.log(3))))
    return Sample(scores, (scores > 0.25).astype(np.int64), truth, clusters)


def error_rates(patients: int, images: int, studies: int) -> dict[str, tuple[float, float]]:
    """Shares of intervals wholly above and wholly below the truth, which is the value of a very large sample."""
    rng = np.random.default_rng(patients + images)
    large = WeightedMetrics(draw(rng, 300_000 // images, images), BOOTSTRAPPED).unweighted()
    truth, errors = large[1] - large[0], np.zeros((len(BOOTSTRAPPED), 2))
    for number in range(studies):
        sample = draw(rng, patients, images)
        strata = sample.truth[::images]
        statistic = WeightedMetrics(sample, BOOTSTRAPPED)
        resampled = resample(statistic, strata, cases=len(sample.truth), resamples=400, seed=(number,))
        for column, metric in enumerate(BOOTSTRAPPED):
            values = resampled.of(lambda v, c=column: v[..., c])
            ends = interval(change(values), 0.95) if metric == "brier" else share_difference(values, 0.95)
            assert ends is not None
            errors[column] += (ends.low > truth[column], ends.high < truth[column])
    return {m: tuple(shares) for m, shares in zip(BOOTSTRAPPED, (errors / studies).tolist(), strict=True)}


@pytest.mark.parametrize(("patients", "images"), [(160, 1), (80, 3)])
def test_bootstrapped_differences_keep_their_level(patients: int, images: int) -> None:
    for passes, fails in error_rates(patients, images, 120).values():
        assert passes <= 0.075
        assert fails <= 0.075
        assert passes + fails <= 0.115


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "images"), [(80, 1), (200, 1), (120, 3)])
def test_bootstrapped_differences_keep_their_level_in_many_studies(patients: int, images: int) -> None:
    for passes, fails in error_rates(patients, images, 2000).values():
        assert 0.010 <= passes <= 0.055
        assert 0.010 <= fails <= 0.055


@pytest.mark.slow
@pytest.mark.parametrize(("positives", "negatives"), [(20, 40), (50, 100), (50, 500), (200, 400)])
@pytest.mark.parametrize("areas", [(0.95, 0.90), (0.90, 0.85)])
def test_auroc_at_the_margin_in_many_studies(positives: int, negatives: int, areas: tuple[float, float]) -> None:
    rng, studies = np.random.default_rng(5), 5000
    intervals = [area_difference(auroc_study(rng, positives, negatives, areas), 0.95) for _ in range(studies)]
    passes, fails = (
        np.mean([wrong(f) for f in intervals]) for wrong in (lambda f: f.low > -MARGIN, lambda f: f.high < -MARGIN)
    )
    assert 0.014 <= passes <= 0.041
    assert 0.014 <= fails <= 0.036


def test_the_p_value_of_a_bootstrapped_share_inverts_its_interval() -> None:
    sample = draw(np.random.default_rng(8), 160)
    values = resample(WeightedMetrics(sample, ("auprc",)), sample.truth, cases=160, resamples=500, seed=(1,))
    share = values.of(lambda v: v[..., 0])
    ends = share_difference(share, 0.9)
    assert ends is not None
    assert p_share_below(share, ends.high) == pytest.approx(0.05, abs=1e-6)
    assert p_share_below(share, ends.low) == pytest.approx(0.95, abs=1e-6)
    assert "logit profile" in ends.method
