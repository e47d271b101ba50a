"""The clustered, stratified, paired BCa bootstrap against R's boot, scipy and arithmetic; metrics against sklearn."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from medfm_compress.bench.stats import bootstrap
from medfm_compress.bench.stats.bootstrap import Resampled, interval, p_below, resample
from medfm_compress.bench.stats.metrics import Sample, WeightedMetrics
from medfm_compress.bench.types.metric import METRICS, Metric
from medfm_compress.runtime.errors import InputError


def worked_example() -> Sample:
    i = np.arange(1, 201)
    truth = ((i * i) % 7 < 3).astype(np.int64)
    first = np.floor((i * 0.6180339887498949) % 1 * 20 + 6 * truth)
    second = np.floor((i * 0.4142135623730951) % 1 * 30 + 5 * truth)
    decisions = np.stack([first >= 12, second >= 17]).astype(np.int64)
    return Sample(np.stack([first, second]), decisions, truth, np.arange(200))


def difference(sample: Sample, metric: Metric, resamples: int = 2000, seed: int = 0) -> Resampled:
    resampled = resample(
        WeightedMetrics(sample, (metric,)),
        sample.truth,
        cases=len(sample.truth),
        resamples=resamples,
        seed=(seed,),
    )
    return resampled.of(lambda values: values[..., 1, 0] - values[..., 0, 0])


@pytest.mark.parametrize(
    ("metric", "estimate", "low", "high"),
    [
        ("accuracy", -0.1, -0.19, -0.01),
        ("f1", -0.09231411863, -0.17296569049, -0.01236736734),
        ("ppv", -0.04945177892, -0.12400043196, 0.02572059115),
        ("auprc", -0.06181244994, -0.11504444183, -0.01096094942),
    ],
)
def test_r_boot_agrees_within_monte_carlo_error(metric: Metric, estimate: float, low: float, high: float) -> None:
    # boot 1.3-28: boot(R = 20000, strata = truth), boot.ci(type = "bca").
    resampled = difference(worked_example(), metric, resamples=10000)
    ours = interval(resampled, 0.95)
    assert ours is not None
    assert ours.estimate == pytest.approx(estimate, abs=1e-9)
    assert (ours.low, ours.high) == pytest.approx((low, high), abs=0.006)
    assert ours.method == bootstrap.METHOD


def test_scipy_agrees_on_a_skewed_statistic_of_two_samples() -> None:
    # Means of exponentials: skewed, so that bias and acceleration both matter.
    x, y = np.random.default_rng(1).exponential(size=40), np.random.default_rng(2).exponential(size=25)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return weights[:, :40] @ x / weights[:, :40].sum(axis=1) - weights[:, 40:] @ y / weights[:, 40:].sum(axis=1)

    ours = interval(resample(statistic, np.repeat([0, 1], [40, 25]), cases=65, resamples=20000, seed=(3,)), 0.95)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        n_resamples=20000,
        method="BCa",
        vectorized=True,
        rng=np.random.default_rng(4),
    )
    assert ours is not None
    bounds = theirs.confidence_interval
    assert (ours.low, ours.high) == pytest.approx((bounds.low, bounds.high), abs=0.04)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.03)


def literal_ece(truth: np.ndarray, scores: np.ndarray) -> float:
    """Guo et al. 2017 for one finding: |share that has it − mean score| in 15 bins, weighted by their cases."""
    bins = np.digitize(scores, np.linspace(0, 1, 16)[1:-1])
    gaps = [abs(truth[bins == b].mean() - scores[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(np.sum(gaps))


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_metrics_under_integer_weights_are_those_of_repeated_cases_by_sklearn(metric: Metric, dtype: type) -> None:
    rng = np.random.default_rng(5)
    truth = (rng.random(90) < 0.3).astype(np.int64)
    scores = 1 / (1 + np.exp(-np.round(rng.normal(size=(2, 90)) + truth, 1)))
    sample = Sample(scores, (scores > 0.6).astype(np.int64), truth, rng.permutation(np.arange(90) % 60))
    weights = rng.integers(0, 4, (3, 60)).astype(dtype)
    ours = WeightedMetrics(sample, (metric,))(weights)[:, :, 0]
    of_scores = {
        "auroc": sk.roc_auc_score,
        "auprc": sk.average_precision_score,
        "brier": sk.brier_score_loss,
        "log_loss": sk.log_loss,
        "ece": literal_ece,
    }
    of_decisions = {
        "accuracy": sk.accuracy_score,
        "balanced_accuracy": sk.balanced_accuracy_score,
        "sensitivity": sk.recall_score,
        "specificity": lambda y, d: sk.recall_score(y, d, pos_label=0),
        "ppv": sk.precision_score,
        "npv": lambda y, d: sk.precision_score(y, d, pos_label=0),
        "f1": sk.f1_score,
    }
    reference = (of_scores | of_decisions)[metric]
    for row, counts in enumerate(weights.astype(int)):
        repeated = np.repeat(np.arange(90), counts[sample.clusters])
        for model in range(2):
            values = (sample.scores if metric in of_scores else sample.decisions)[model, repeated]
            assert ours[row, model] == pytest.approx(reference(truth[repeated], values), abs=1e-12)


def test_a_certain_error_has_a_large_but_finite_log_loss() -> None:
    sample = Sample(np.array([[0.0, 1.0]]), np.array([[0, 1]]), np.array([1, 0]), np.arange(2))
    values = WeightedMetrics(sample, ("log_loss", "brier")).unweighted()[0]
    assert values.tolist() == pytest.approx([-np.log(1e-7), 1.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": np.array([0, 1, 1])}, "lengths must agree"),
        ({"clusters": np.arange(3)}, "lengths must agree"),
        ({"scores": np.array([[0.1, np.nan, 0.3, 0.4]])}, "1 scores are not finite"),
        ({"scores": np.array([[0.1, 1.2, 0.3, 0.4]])}, "probabilities in"),
        ({"truth": np.array([0, 1, 2, 1])}, "truth must be 0 or 1"),
        ({"decisions": np.array([[0, 1, -1, 1]])}, "decisions must be 0 or 1"),
    ],
)
def test_samples_that_mean_nothing_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    good = Sample(np.full((1, 4), 0.5), np.zeros((1, 4), dtype=np.int64), np.array([0, 1, 0, 1]), np.arange(4))
    with pytest.raises(InputError, match=message):
        WeightedMetrics(good._replace(**change))


def test_a_zero_denominator_is_undefined_and_never_zero() -> None:
    sample = Sample(np.zeros((1, 4)), np.zeros((1, 4), dtype=np.int64), np.array([0, 1, 0, 1]), np.arange(4))
    values = dict(zip(METRICS, WeightedMetrics(sample).unweighted()[0], strict=True))
    assert np.isnan(values["ppv"])
    assert values["sensitivity"] == 0
    assert values["auroc"] == 0.5


def test_equal_seeds_give_equal_intervals_and_chunks_do_not_matter_to_what_is_drawn_together() -> None:
    sample = worked_example()
    assert interval(difference(sample, "f1"), 0.95) == interval(difference(sample, "f1"), 0.95)
    assert interval(difference(sample, "f1"), 0.95) != interval(difference(sample, "f1", seed=1), 0.95)


def test_the_size_of_the_chunks_has_no_say_in_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = worked_example()
    whole = difference(sample, "f1", resamples=300)
    monkeypatch.setattr(bootstrap, "CHUNK_VALUES", 1000)
    pieces = difference(sample, "f1", resamples=300)
    np.testing.assert_array_equal(whole.replicates, pieces.replicates)


def test_memory_does_not_grow_with_the_number_of_resamples() -> None:
    rng = np.random.default_rng(9)
    truth = (rng.random(5000) < 0.3).astype(np.int64)
    sample = Sample(rng.random((2, 5000)), rng.integers(0, 2, (2, 5000)), truth, np.arange(5000))
    statistic = WeightedMetrics(sample, ("auprc", "brier", "accuracy"))
    peaks = []
    for resamples in (100, 800):
        tracemalloc.start()
        resample(statistic, truth, cases=5000, resamples=resamples, seed=(0,))
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    assert max(peaks) < 60
    assert peaks[1] < 1.5 * peaks[0]


def test_strata_and_pairs_hold_in_every_resample() -> None:
    strata = np.array([0] * 7 + [1] * 3)
    seen = resample(lambda weights: weights, strata, cases=10, resamples=50, seed=(0,)).replicates
    assert (seen[:, :7].sum(axis=1) == 7).all()
    assert (seen[:, 7:].sum(axis=1) == 3).all()
    assert len(np.unique(seen, axis=0)) > 40


def test_deleting_clusters_in_groups_gives_nearly_the_same_acceleration(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = worked_example()
    whole = interval(difference(sample, "auprc"), 0.95)
    monkeypatch.setattr(bootstrap, "MAX_GROUPS", 25)
    grouped = interval(difference(sample, "auprc"), 0.95)
    assert whole is not None and grouped is not None
    assert (grouped.low, grouped.high) == pytest.approx((whole.low, whole.high), abs=0.004)


def test_without_variation_the_interval_is_a_point_and_says_why() -> None:
    sample = worked_example()
    same = Sample(sample.scores[[0, 0]], sample.decisions[[0, 0]], sample.truth, sample.clusters)
    flat = interval(difference(same, "f1"), 0.95)
    assert flat is not None
    assert (flat.low, flat.high) == (0, 0)
    assert flat.method.startswith("percentile bootstrap over patients (no single patient")


def test_few_clusters_expand_the_tails_as_hesterberg_says() -> None:
    # The mean of 12 numbers: its expanded percentile interval is close to Student's, the plain one too narrow.
    x = stats.norm.ppf((np.arange(12) + 0.5) / 12)

    def mean(weights: np.ndarray) -> np.ndarray:
        return weights @ x / weights.sum(axis=1)

    resampled = resample(mean, np.zeros(12, dtype=np.int64), cases=12, resamples=20000, seed=(1,))
    ours, plain = interval(resampled, 0.95), interval(resampled._replace(clusters=()), 0.95)
    assert ours is not None and plain is not None
    student = stats.t.ppf(0.975, 11) * x.std(ddof=1) / 12**0.5
    assert ours.high - ours.low == pytest.approx(2 * student, rel=0.03)
    assert plain.high - plain.low < 0.9 * (ours.high - ours.low)
    assert p_below(resampled, ours.high) == pytest.approx(0.025, abs=0.003)


def test_an_estimate_at_the_edge_of_its_resamples_falls_back_to_percentiles() -> None:
    estimate, replicates = np.array(0.0), np.linspace(0.1, 1.1, 1001)
    fallback = interval(Resampled(estimate, replicates, (np.linspace(0, 1, 20),)), 0.9)
    assert fallback is not None
    assert (fallback.low, fallback.high) == pytest.approx((0.15, 1.05))
    assert "one side" in fallback.method


def test_a_statistic_undefined_in_many_resamples_has_no_interval() -> None:
    replicates = np.linspace(0, 1, 100)
    replicates[:2] = np.nan
    assert interval(Resampled(np.array(0.5), replicates, ()), 0.95) is None
    assert p_below(Resampled(np.array(0.5), replicates, ()), 0.9) == 1
    assert interval(Resampled(np.array(np.nan), np.linspace(0, 1, 100), ()), 0.95) is None


@pytest.mark.parametrize("metric", ["auprc", "f1"])
def test_the_p_value_inverts_the_interval(metric: Metric) -> None:
    resampled = difference(worked_example(), metric)
    at_95 = interval(resampled, 0.95)
    assert at_95 is not None
    assert p_below(resampled, at_95.high) == pytest.approx(0.025, abs=0.003)
    assert p_below(resampled, at_95.low) == pytest.approx(0.975, abs=0.003)
    assert p_below(resampled, 0.5) < 1e-10
    assert p_below(resampled, -0.9) > 1 - 1e-10
