"""Simulated studies with known truth: type-I error of non-inferiority at the margin, and coverage of the intervals.

Tolerances are the nominal value plus or minus about three binomial standard errors of the simulation, and a little
more for the bootstrap, whose nominal level is approximate. docs/results/statistics.md has larger simulations.
"""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

import numpy as np
import pytest
from scipy.stats import binom, multinomial, norm

from medfm_compress.bench.stats.auroc import Areas, clustered_areas
from medfm_compress.bench.stats.auroc_difference import area_difference
from medfm_compress.bench.stats.bootstrap import resample
from medfm_compress.bench.stats.bootstrap_difference import p_resampled_below, resampled_difference
from medfm_compress.bench.stats.logit_profile import CONTRAST, Pair, profile
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.stats.patient_effects import paired_effects
from medfm_compress.bench.stats.score_interval import (
    Effects,
    p_score_below,
    paired_shares,
    score_interval,
    smallest_count,
)
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.metric import Metric

MARGIN = 0.05


class AurocStudy(NamedTuple):
    areas: Areas
    effects: Effects

    def ends(self) -> Interval:
        return area_difference(self.areas, self.effects, 0.95)

    def low_by_variance_alone(self) -> float:
        return profile(Pair(self.areas.values, self.areas.covariance, self.areas.degrees(CONTRAST)), 0.95)[0]


def study_of(scores: np.ndarray, truth: np.ndarray, clusters: np.ndarray) -> AurocStudy:
    sample = Sample(scores, (scores > 0).astype(np.int64), truth, clusters)
    return AurocStudy(clustered_areas(scores, truth, clusters), paired_effects(sample, "auroc"))


def auroc_study(rng: np.random.Generator, positives: int, negatives: int, areas: tuple[float, float]) -> AurocStudy:
    """Binormal scores, one case a patient; 70% of the variance in common."""
    cases = positives + negatives
    truth = (np.arange(cases) < positives).astype(np.int64)
    means = norm.ppf(areas)[:, None] * sqrt(2)
    scores = sqrt(0.7) * rng.normal(size=cases) + sqrt(0.3) * rng.normal(size=(2, cases)) + means * truth
    return study_of(scores, truth, np.arange(cases))


@pytest.mark.parametrize(("positives", "negatives", "margin"), [(50, 100, 0.15), (25, 200, 0.2), (300, 300, 0.06)])
def test_auroc_at_the_margin_with_the_loss_in_all_patients(positives: int, negatives: int, margin: float) -> None:
    # Wald's interval is too lenient here; the profile is not, and the score's end only ever lies lower.
    rng, studies = np.random.default_rng(positives), 400
    passes, fails, walds, score_alone = 0, 0, 0, 0
    for _ in range(studies):
        study = auroc_study(rng, positives, negatives, (0.95, 0.95 - margin))
        interval = study.ends()
        passes += interval.low > -margin
        fails += interval.high < -margin
        score_alone += interval.low < study.low_by_variance_alone() - 1e-12
        assert interval.standard_error is not None
        walds += interval.estimate - norm.ppf(0.975) * interval.standard_error > -margin
    assert passes / studies <= 0.035
    assert fails / studies <= 0.045
    assert walds > passes
    assert score_alone > 0


class Few(NamedTuple):
    """A study whose loss sits in few patients, who have ``images`` each: a rare kind of the ill, or of the healthy."""

    ill: int
    healthy: int
    margin: float
    images: int = 1
    whose: int = 1
    lowest: bool = True


FEW = [
    Few(20, 40, 0.05),
    Few(50, 100, 0.10),
    Few(50, 100, 0.10, images=3),
    Few(100, 400, 0.02),
    Few(100, 400, 0.05),
    Few(390, 234, 0.02, whose=0),
    Few(200, 400, 0.05, lowest=False),
]


@pytest.mark.parametrize("few", FEW, ids=str)
def test_auroc_at_the_margin_with_the_loss_in_few_patients(few: Few) -> None:
    rng, studies, passes, before = np.random.default_rng(few.ill), 400, 0, 0
    patients = few.ill + few.healthy
    clusters = np.repeat(np.arange(patients), few.images)
    truth = (clusters < few.ill).astype(np.int64)
    # Teacher .90 with any number of images; a patient who is lost loses .90, one who looks healthy .40.
    lost = few.margin / (0.9 if few.lowest else 0.4)
    for _ in range(studies):
        within = sqrt(0.5) * rng.normal(size=(2, patients))[:, clusters]
        teacher, unseen = within + sqrt(0.5) * rng.normal(size=(2, len(clusters)))
        teacher += sqrt(2) * norm.ppf(0.9) * truth
        hit = (rng.random(patients) < lost)[clusters] & (truth == few.whose)
        bundle = np.where(hit, np.where(few.whose, -50, 50) if few.lowest else unseen, 0.9 * teacher)
        study = study_of(np.stack([teacher, bundle]), truth, clusters)
        passes += study.ends().low > -few.margin
        before += study.low_by_variance_alone() > -few.margin
    assert passes / studies <= 0.035
    assert before / studies > 0.03


@pytest.mark.parametrize("metric", ["sensitivity", "accuracy", "balanced_accuracy"])
def test_shares_at_the_margin_with_the_loss_in_few_patients_of_several_images(metric: Metric) -> None:
    rng, studies, margin, passes = np.random.default_rng(1), 400, 0.04, 0
    clusters = np.repeat(np.arange(300), 3)
    truth = (clusters < 120).astype(np.int64)
    lost = margin * {"sensitivity": 1, "accuracy": 300 / 120, "balanced_accuracy": 2}[metric] / 0.9
    for _ in range(studies):
        right = np.repeat(rng.random(300) < 0.9, 3)
        hit = np.repeat(rng.random(300) < lost, 3) & (truth == 1)
        decisions = np.stack([np.where(r, truth, 1 - truth) for r in (right, right & ~hit)])
        sample = Sample(decisions.astype(np.float64), decisions, truth, clusters)
        passes += score_interval(paired_effects(sample, metric), 0.95).low > -margin
    assert 0 < passes / studies <= 0.035


@pytest.mark.parametrize(
    ("patients", "large", "images", "margin"), [(400, 0.01, 20, 0.05), (200, 0.02, 10, 0.05), (200, 0.1, 9, 0.06)]
)
@pytest.mark.parametrize("metric", ["sensitivity", "auroc"])
def test_at_the_margin_with_the_loss_in_those_who_have_many_images(
    metric: Metric, patients: int, large: float, images: int, margin: float
) -> None:
    """Few have many images each, and all of the loss; most samples hold few or none of those who are lost."""
    rng, passes, studies = np.random.default_rng(images), 0, 200
    share = large * images / (large * images + 1 - large)  # of the images, in the population
    lost = margin / share / 0.9
    for _ in range(studies):
        sizes = np.where(rng.random(patients) < large, images, 1)
        ill = np.repeat(np.arange(patients), sizes)
        clusters = np.concatenate([ill, patients + np.arange(patients)])
        truth = np.concatenate([np.ones(len(ill), np.int64), np.zeros(patients, np.int64)])
        gone = ((sizes == images) & (rng.random(patients) < lost))[ill]
        teacher = rng.normal(size=len(truth)) + sqrt(2) * norm.ppf(0.9) * truth
        right = np.repeat(rng.random(patients) < 0.9, sizes)
        bundle, decisions = teacher.copy(), np.zeros((2, len(truth)), np.int64)
        bundle[: len(ill)][gone] = -50
        decisions[:, : len(ill)] = np.stack([right, right & ~gone])
        sample = Sample(np.stack([teacher, bundle]), decisions, truth, clusters)
        passes += score_interval(paired_effects(sample, metric), 0.95).low > -margin
    assert passes / studies <= 0.055  # three standard errors above 2.5%


def test_a_faithful_copy_passes_where_the_patients_suffice_and_never_where_they_do_not() -> None:
    rng = np.random.default_rng(4)
    for ill, healthy, margin, share in ((50, 100, 0.10, 1.0), (200, 400, 0.05, 1.0), (100, 400, 0.02, 0.0)):
        passes = 0
        for _ in range(40):
            truth = (np.arange(ill + healthy) < ill).astype(np.int64)
            teacher = rng.normal(size=len(truth)) + 2 * truth
            scores = np.stack([teacher, teacher + 0.05 * rng.normal(size=len(truth))])
            passes += study_of(scores, truth, np.arange(len(truth))).ends().low > -margin
        assert passes / 40 == share
        assert (min(ill, healthy) >= smallest_count(margin, 0.025)) == (share > 0)


@pytest.mark.parametrize(("pairs", "lost", "gained"), [(50, 0.08, 0.03), (100, 0.06, 0.01), (200, 0.07, 0.02)])
def test_tangos_error_rates_by_summing_over_every_table(pairs: int, lost: float, gained: float) -> None:
    # No simulation: every possible table with its probability. The true difference is the margin.
    errors = np.zeros(2)
    for c in range(int(binom.ppf(1 - 1e-9, pairs, lost)) + 1):
        for b in range(int(binom.ppf(1 - 1e-9, pairs, gained)) + 1):
            chance = multinomial.pmf([c, b, pairs - b - c], pairs, [lost, gained, 1 - lost - gained])
            effects = paired_shares(b, c, pairs)
            low, p = score_interval(effects, 0.95).low, p_score_below(effects, -MARGIN)
            errors += chance * np.array([low > -MARGIN, p < 0.025])
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
            effects = paired_effects(sample, metric)
            ends = resampled_difference(values, effects, 0.95, errors=metric == "brier")
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
        assert passes <= 0.050
        assert fails <= 0.050


def test_the_p_value_of_a_bootstrapped_share_inverts_its_interval() -> None:
    sample = draw(np.random.default_rng(8), 160)
    values = resample(WeightedMetrics(sample, ("auprc",)), sample.truth, cases=160, resamples=500, seed=(1,))
    share = values.of(lambda v: v[..., 0])
    for effects in (None, paired_effects(sample, "auprc")):
        ends = resampled_difference(share, effects, 0.9)
        assert ends is not None
        assert p_resampled_below(share, effects, ends.high) == pytest.approx(0.05, abs=1e-6)
        assert p_resampled_below(share, effects, ends.low) == pytest.approx(0.95, abs=1e-6)
        assert "logit profile" in ends.method
