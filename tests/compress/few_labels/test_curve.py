"""Spreads over draws and over cases, against scikit-learn and a bootstrap written out."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.compress.few_labels.curve import JudgedCases, difference, margin, resampled_metrics, spread
from medfm_compress.compress.few_labels.linear_classifier import softmax

CASES, DRAWS = 90, 6


@pytest.fixture(scope="module")
def judged():
    return JudgedCases(np.arange(CASES) % 3, tuple(f"p{number // 6}" for number in range(CASES)))


@pytest.fixture(scope="module")
def logits(judged):
    random = np.random.default_rng(0)
    truth = np.eye(3)[judged.classes]
    return [random.normal(0, 1, (CASES, 3)) + (0.5 + 0.2 * number) * truth for number in range(DRAWS)]


def test_the_metrics_are_scikit_learns(judged, logits):
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    metrics = resampled_metrics(logits, judged, 100, 0)
    areas = [roc_auc_score(judged.classes, softmax(draw), multi_class="ovr") for draw in logits]
    accuracies = [balanced_accuracy_score(judged.classes, draw.argmax(1)) for draw in logits]
    np.testing.assert_allclose(metrics["auroc"].estimate, areas, atol=1e-12)
    np.testing.assert_allclose(metrics["balanced_accuracy"].estimate, accuracies, atol=1e-12)


def test_two_labels_have_one_area(judged):
    from sklearn.metrics import roc_auc_score

    classes = judged.classes % 2
    draws = [np.random.default_rng(seed).normal(0, 1, (CASES, 2)) for seed in range(2)]
    areas = resampled_metrics(draws, JudgedCases(classes, judged.clusters), 100, 0)["auroc"].estimate
    np.testing.assert_allclose(areas, [roc_auc_score(classes, draw[:, 1] - draw[:, 0]) for draw in draws])


def test_the_margin_is_the_log_odds(logits):
    odds = softmax(logits[0])
    np.testing.assert_allclose(margin(logits[0], 1), np.log(odds[:, 1] / (1 - odds[:, 1])))
    assert np.isfinite(margin(np.array([[1e4, 0.0, -1e4]]), 2)).all()  # where the softmax itself is 0


def test_over_both_is_wider_than_over_either(judged, logits):
    result = spread(resampled_metrics(logits, judged, 400, 0)["auroc"])
    widths = {name: np.ptp(getattr(result, name)) for name in ("over_draws", "over_cases", "over_both")}
    assert widths["over_both"] > max(widths["over_draws"], widths["over_cases"]) > 0
    assert result.over_cases[0] < result.mean < result.over_cases[1]


def test_over_cases_is_about_a_plain_bootstrap_of_patients(logits):
    judged = JudgedCases(np.arange(CASES) % 3, tuple(map(str, range(CASES))))
    ends = spread(resampled_metrics(logits, judged, 1000, 0)["balanced_accuracy"]).over_cases
    random, means = np.random.default_rng(1), []
    correct = np.mean([draw.argmax(1) == judged.classes for draw in logits], axis=0)
    for _ in range(1000):
        chosen = [random.choice(np.flatnonzero(judged.classes == label), CASES // 3) for label in range(3)]
        means.append(np.mean([correct[rows].mean() for rows in chosen]))
    np.testing.assert_allclose(ends, np.quantile(means, (0.025, 0.975)), atol=0.02)


def test_a_difference_is_paired(judged, logits):
    values, again = (resampled_metrics(logits, judged, 200, 0)["auroc"] for _ in range(2))
    same = spread(difference(values, again))
    assert (same.mean, same.over_draws, same.over_both) == (0.0, (0.0, 0.0), (0.0, 0.0))
    better = resampled_metrics([2 * draw + np.eye(3)[judged.classes] for draw in logits], judged, 200, 0)["auroc"]
    assert spread(difference(better, values)).over_both[0] > 0


def test_one_draw_has_no_spread_over_draws(judged, logits):
    result = spread(resampled_metrics(logits[:1], judged, 100, 0)["auroc"])
    assert result.over_draws is None
    assert result.over_cases is not None
