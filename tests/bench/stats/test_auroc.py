"""AUROC, its variance and its paired difference, against R's pROC and the definitions taken literally."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from medfm_compress.bench.stats.auroc import Areas, area_interval, auroc, clustered_areas, midranks
from medfm_compress.bench.stats.auroc_difference import area_difference, p_area_below
from medfm_compress.bench.stats.metrics import Sample
from medfm_compress.bench.stats.patient_effects import paired_effects
from medfm_compress.bench.stats.score_interval import Effects
from medfm_compress.runtime.errors import InputError


def worked_example() -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, by a formula that R can repeat."""
    i = np.arange(1, 201)
    truth = ((i * i) % 7 < 3).astype(np.int64)
    first = np.floor((i * 0.6180339887498949) % 1 * 20 + 6 * truth)
    second = np.floor((i * 0.4142135623730951) % 1 * 30 + 5 * truth)
    return np.stack([first, second]), truth


def effects_of(scores: np.ndarray, truth: np.ndarray) -> Effects:
    return paired_effects(Sample(scores, (scores > 10).astype(np.int64), truth, np.arange(len(truth))), "auroc")


def literal_areas(scores: np.ndarray, truth: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Obuchowski's estimator as it is printed, by loops over all pairs and clusters."""
    positive, negative = np.flatnonzero(truth == 1), np.flatnonzero(truth == 0)
    m, n, names = len(positive), len(negative), np.unique(clusters)
    kernels = [
        (row[positive][:, None] > row[negative]) + 0.5 * (row[positive][:, None] == row[negative]) for row in scores
    ]
    areas = np.array([kernel.mean() for kernel in kernels])
    d10, d01 = np.zeros((2, len(scores), len(names)))
    for model, kernel in enumerate(kernels):
        for column, name in enumerate(names):
            mine, theirs = clusters[positive] == name, clusters[negative] == name
            d10[model, column] = kernel.mean(axis=1)[mine].sum() - mine.sum() * areas[model]
            d01[model, column] = kernel.mean(axis=0)[theirs].sum() - theirs.sum() * areas[model]
    i10, i01, total = len(set(clusters[positive])), len(set(clusters[negative])), len(names)
    s10, s01 = i10 / ((i10 - 1) * m) * d10 @ d10.T, i01 / ((i01 - 1) * n) * d01 @ d01.T
    s11 = total / (total - 1) * d10 @ d01.T
    return areas, s10 / m + s01 / n + (s11 + s11.T) / (m * n)


def test_proc_agrees_on_areas_covariance_and_the_paired_standard_error() -> None:
    # pROC 1.18.0: auc, var and cov (method = "delong"), roc.test(method = "delong")$conf.int, of worked_example().
    scores, truth = worked_example()
    areas = clustered_areas(scores, truth, np.arange(len(truth)))
    np.testing.assert_allclose(areas.values, [0.783339467549994, 0.660287081339713], atol=1e-12)
    expected = [[1.19917915930134e-03, 2.91693097955347e-05], [2.91693097955347e-05, 1.74223882443796e-03]]
    np.testing.assert_allclose(areas.covariance, expected, rtol=0, atol=1e-13)
    difference = area_difference(areas, effects_of(scores, truth), 0.95)
    assert difference.standard_error is not None
    walds = [difference.estimate + sign * norm.ppf(0.975) * difference.standard_error for sign in (-1, 1)]
    assert walds == pytest.approx([-0.2282913079748471, -0.0178134644457152], abs=1e-10)
    # Ours is not Wald's, but near it at areas as low as these.
    assert [difference.low, difference.high] == pytest.approx(walds, abs=0.004)


@pytest.mark.parametrize("seed", range(4))
def test_clustered_covariance_is_the_printed_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clusters = rng.integers(0, 25, 80)
    truth = (rng.random(80) < 0.4).astype(np.int64)
    scores = np.round(rng.normal(size=(3, 80)) + truth + rng.normal(size=25)[clusters], 1)
    areas = clustered_areas(scores, truth, clusters)
    values, covariance = literal_areas(scores, truth, clusters)
    np.testing.assert_allclose(areas.values, values, atol=1e-12)
    np.testing.assert_allclose(areas.covariance, covariance, atol=1e-13)


def test_copies_of_each_case_in_its_own_cluster_change_neither_area_nor_variance_by_much() -> None:
    scores, truth = worked_example()
    cases = np.arange(len(truth))
    once = clustered_areas(scores, truth, cases)
    twice = clustered_areas(np.tile(scores, 2), np.tile(truth, 2), np.tile(cases, 2))
    pretending = clustered_areas(np.tile(scores, 2), np.tile(truth, 2), np.arange(2 * len(truth)))
    np.testing.assert_allclose(twice.covariance, once.covariance, rtol=1e-9)
    assert pretending.covariance[0, 0] < 0.52 * once.covariance[0, 0]


def test_auroc_agrees_with_sklearn_under_ties() -> None:
    scores, truth = worked_example()
    for row in scores:
        assert auroc(row, truth) == pytest.approx(roc_auc_score(truth, row), abs=1e-12)
    assert midranks(np.array([2.0, 1.0, 2.0, 3.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


def test_all_scores_tied_is_one_half_without_spread() -> None:
    truth = np.array([0, 1] * 20)
    areas = clustered_areas(np.zeros((2, 40)), truth, np.arange(40))
    assert areas.values.tolist() == [0.5, 0.5]
    assert area_difference(areas, effects_of(np.zeros((2, 40)), truth), 0.95).high == pytest.approx(0.175, abs=1e-3)


def areas_of(values: list[float], covariance: list[list[float]], patients: tuple[int, int, int]) -> Areas:
    halves = np.stack([np.array(covariance) / 2] * 2)
    return Areas(np.array(values), np.array(covariance), halves, patients)


def test_the_interval_of_one_area_stays_inside_the_unit_interval() -> None:
    areas = areas_of([0.995, 1.0], [[0.004**2, 0.0], [0.0, 0.0]], (50, 80, 130))
    near_one, perfect = (area_interval(areas, model, 0.95) for model in (0, 1))
    assert 0.97 < near_one.low < 0.995 < near_one.high < 1
    assert perfect.high == 1
    assert perfect.low == pytest.approx(1 - 3.8415 / 53.8415, abs=1e-4)


def test_degrees_of_freedom_are_welchs_and_never_more_than_patients_allow() -> None:
    areas = clustered_areas(*worked_example(), np.arange(200))
    contrast = np.array([-1.0, 1.0])
    first, second = (float(contrast @ part @ contrast) for part in areas.by_class)
    m, n = areas.patients[:2]
    welch = (first + second) ** 2 / (first**2 / (m - 1) + second**2 / (n - 1))
    assert areas.degrees(contrast) == pytest.approx(welch)
    assert f"t({welch:.0f})" in area_difference(areas, effects_of(*worked_example()), 0.95).method
    # Every patient brings a case of each class: 60 patients, and not 59 degrees twice.
    scores = worked_example()[0]
    both = clustered_areas(scores[:, :120], np.tile([0, 1], 60), np.arange(120) // 2)
    assert both.degrees(contrast) <= 59


def test_the_difference_is_profiled_over_the_joint_region_of_the_logits() -> None:
    # The same ends by a search along the bundle's logit, the other end of the ellipse found by the quadratic formula.
    areas = clustered_areas(*worked_example(), np.arange(200))
    slopes = areas.values * (1 - areas.values)
    precision = np.linalg.inv(areas.covariance / np.outer(slopes, slopes))
    radius = student.ppf(0.975, areas.degrees(np.array([-1.0, 1.0]))) ** 2
    centre = np.log(areas.values / (1 - areas.values))

    def smallest(move: float) -> float:
        a, b = precision[0, 0], 2 * precision[0, 1] * move
        root = b * b - 4 * a * (precision[1, 1] * move**2 - radius)
        if root < 0:
            return 1.0
        first = centre[0] + (-b + np.sqrt(root)) / (2 * a)
        return float(1 / (1 + np.exp(-centre[1] - move)) - 1 / (1 + np.exp(-first)))

    reference = minimize_scalar(smallest, bounds=(-1, 0), method="bounded", options={"xatol": 1e-10})
    # The score's interval out of the way: nobody moves anything.
    nobody = Effects(float(areas.values[1] - areas.values[0]), np.zeros(200), -1e-9, 1e-9)
    assert area_difference(areas, nobody, 0.95).low == pytest.approx(reference.fun, abs=1e-9)
    assert area_difference(areas, effects_of(*worked_example()), 0.95).low <= reference.fun + 1e-9


def test_the_p_value_inverts_the_interval() -> None:
    for scores, truth in (worked_example(), (worked_example()[0] + 100 * worked_example()[1], worked_example()[1])):
        areas, effects = clustered_areas(scores, truth, np.arange(200)), effects_of(scores, truth)
        for level in (0.8, 0.95):
            interval = area_difference(areas, effects, level)
            assert p_area_below(areas, effects, interval.high) == pytest.approx((1 - level) / 2, abs=1e-6)
            assert p_area_below(areas, effects, interval.low) == pytest.approx((1 + level) / 2, abs=1e-6)


def test_where_no_pair_changes_order_the_interval_is_as_wide_as_so_few_patients_allow() -> None:
    scores, truth = worked_example()
    fewest, patients = int(min(truth.sum(), (1 - truth).sum())), len(truth)
    # z² |w| / (C + z²), where a patient of the rarer class is lost: w = −C / fewest.
    reach = 3.8415 * patients / fewest / (patients + 3.8415)
    perfect = scores + 100 * truth
    for pair in (np.stack([scores[0], np.exp(scores[0] / 9)]), perfect):
        areas, effects = clustered_areas(pair, truth, np.arange(200)), effects_of(pair, truth)
        interval = area_difference(areas, effects, 0.95)
        assert -interval.low == interval.high == pytest.approx(reach, rel=1e-4)
        assert p_area_below(areas, effects, -0.01) == pytest.approx(1 - p_area_below(areas, effects, 0.01))
        assert p_area_below(areas, effects, 0.01) > 0.2


def test_one_class_or_one_patient_of_a_class_is_refused() -> None:
    with pytest.raises(InputError, match="both classes"):
        auroc(np.zeros(3), np.ones(3, dtype=np.int64))
    with pytest.raises(InputError, match="at least two patients"):
        clustered_areas(np.zeros((1, 6)), np.array([1, 1, 1, 0, 0, 0]), np.array([0, 0, 0, 1, 2, 3]))


def test_scores_that_cannot_be_ranked_are_refused() -> None:
    truth, cases = np.array([0, 1, 0, 1]), np.arange(4)
    with pytest.raises(InputError, match="1 scores are not finite"):
        clustered_areas(np.array([[0.1, np.nan, 0.2, 0.3]]), truth, cases)
    with pytest.raises(InputError, match="of the same cases"):
        auroc(np.zeros(3), truth)
    with pytest.raises(InputError, match="as many"):
        clustered_areas(np.zeros((1, 4)), truth, np.arange(3))
    with pytest.raises(InputError, match="0 or 1"):
        clustered_areas(np.zeros((1, 4)), np.array([0, 1, 2, 1]), cases)
