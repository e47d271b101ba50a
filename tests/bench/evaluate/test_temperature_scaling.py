"""The fitted temperature is the minimum that SciPy finds, and where there is none it says so."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax

from medfm_compress.bench.stats.temperature import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    fit_temperature,
    negative_log_likelihood,
)
from medfm_compress.runtime.errors import InputError


def exclusive_cases(count: int, labels: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``temperature`` times too large, and truth drawn from what they should be."""
    random = np.random.default_rng(seed)
    honest = random.normal(0, 2, (count, labels))
    chosen = [random.choice(labels, p=row) for row in softmax(honest, axis=1)]
    return temperature * honest, np.eye(labels, dtype=np.int64)[chosen]


def independent_cases(count: int, labels: int, temperature: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    honest = random.normal(-1, 2, (count, labels))
    return temperature * honest, (random.random(honest.shape) < expit(honest)).astype(np.int64)


def reference_nll(logits: np.ndarray, truth: np.ndarray, exclusive: bool, temperature: float) -> float:
    z = logits / temperature
    likelihood = truth * log_softmax(z, axis=1) if exclusive else truth * log_expit(z) + (1 - truth) * log_expit(-z)
    return -float(likelihood.sum(axis=1).mean())


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 8.0])
@pytest.mark.parametrize(
    ("make", "labels", "exclusive"),
    [
        (exclusive_cases, 2, True),
        (exclusive_cases, 9, True),
        (independent_cases, 1, False),
        (independent_cases, 14, False),
    ],
)
def test_it_is_the_minimum_that_scipy_finds(make, labels, exclusive, temperature):
    logits, truth = make(400, labels, temperature, seed=labels)
    fit = fit_temperature(logits, truth, exclusive=exclusive)
    reference = minimize_scalar(
        lambda t: reference_nll(logits, truth, exclusive, t),
        bounds=(0.05, 20),
        method="bounded",
        options={"xatol": 1e-9},
    )
    assert fit.temperature == pytest.approx(reference.x, rel=1e-5)
    assert fit.nll_after == pytest.approx(reference.fun, rel=1e-12)
    assert fit.nll_before == pytest.approx(reference_nll(logits, truth, exclusive, 1.0), rel=1e-12)
    assert fit.temperature == pytest.approx(temperature, rel=0.35)
    assert not fit.at_bound
    likelihood = negative_log_likelihood(logits, truth, exclusive=exclusive, temperature=fit.temperature)
    assert likelihood == pytest.approx(fit.nll_after, rel=1e-12)


@pytest.mark.parametrize("held_against", [0.06, 0.5, 1.0, 4.0, 19.0])
def test_the_start_does_not_matter(held_against):
    logits, truth = exclusive_cases(300, 3, 2.0, seed=1)
    fit = fit_temperature(logits, truth, exclusive=True, held_against=held_against)
    assert fit.temperature == pytest.approx(fit_temperature(logits, truth, exclusive=True).temperature, rel=1e-9)
    assert fit.nll_before == pytest.approx(reference_nll(logits, truth, True, held_against))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_separable_cases_end_at_the_lower_bound(size):
    truth = np.eye(2, dtype=np.int64)[np.arange(60) % 2]
    fit = fit_temperature(size * (truth - 0.5), truth, exclusive=True)
    assert fit.at_bound and fit.nll_after <= fit.nll_before
    # Where the likelihood is already exactly 1 there is nothing to gain, and the temperature stays.
    assert fit.temperature == pytest.approx(MIN_TEMPERATURE if size <= 1 else 1.0)


def test_logits_that_mislead_end_at_the_upper_bound():
    truth = np.eye(2, dtype=np.int64)[np.arange(60) % 2]
    fit = fit_temperature(0.5 - truth, truth, exclusive=True)
    assert fit.at_bound and fit.temperature == pytest.approx(MAX_TEMPERATURE)


def test_one_class_only_is_at_a_bound_where_it_is_separable():
    logits = np.column_stack([np.zeros(80), np.linspace(0.5, 3, 80)])
    truth = np.tile([0, 1], (80, 1))
    assert fit_temperature(logits, truth, exclusive=True).at_bound


def test_equal_logits_leave_the_temperature():
    truth = np.eye(3, dtype=np.int64)[np.arange(60) % 3]
    fit = fit_temperature(np.zeros((60, 3)), truth, exclusive=True, held_against=1.5)
    assert (fit.temperature, fit.at_bound, fit.p_value) == (1.5, False, 1.0)
    assert fit.nll_before == fit.nll_after == pytest.approx(np.log(3))


def test_huge_logits_do_not_overflow():
    logits, truth = exclusive_cases(200, 2, 1.0, seed=3)
    assert np.isfinite(fit_temperature(1e37 * logits, truth, exclusive=True).nll_before)
    logits, truth = independent_cases(200, 3, 1.0, seed=3)
    assert fit_temperature(1e4 * logits, truth, exclusive=False).temperature == pytest.approx(MAX_TEMPERATURE)


def test_the_p_value_is_uniform_where_the_temperature_is_right_and_small_where_it_is_wrong():
    right = [fit_temperature(*exclusive_cases(150, 2, 1.0, seed), exclusive=True).p_value for seed in range(400)]
    assert stats.kstest(right, "uniform").pvalue > 0.01
    wrong = [fit_temperature(*exclusive_cases(150, 2, 2.0, seed), exclusive=True).p_value for seed in range(100)]
    assert np.mean(np.array(wrong) < 0.05) > 0.9


def test_a_patients_copies_are_not_more_evidence():
    logits, truth = exclusive_cases(100, 2, 1.3, seed=0)
    alone = fit_temperature(logits, truth, exclusive=True)
    copies = fit_temperature(
        np.repeat(logits, 5, axis=0), np.repeat(truth, 5, axis=0), exclusive=True, clusters=np.repeat(np.arange(100), 5)
    )
    assert copies.p_value == pytest.approx(alone.p_value)
    assert copies.temperature == pytest.approx(alone.temperature)


@pytest.mark.parametrize(
    ("logits", "truth", "complaint"),
    [
        (np.zeros((0, 2)), np.zeros((0, 2), int), "not empty"),
        (np.zeros((3, 2)), np.zeros((3, 1), int), r"\[cases, labels\]"),
        (np.full((3, 2), np.nan), np.tile([0, 1], (3, 1)), "not finite"),
        (np.zeros((3, 2)), np.ones((3, 2), int), "one 1 a case"),
        (np.zeros((3, 2)), np.tile([0, 2], (3, 1)), "0 or 1"),
    ],
)
def test_bad_input_is_refused(logits, truth, complaint):
    with pytest.raises(InputError, match=complaint):
        fit_temperature(logits, truth, exclusive=True)


def test_a_temperature_that_is_not_positive_is_refused():
    with pytest.raises(InputError, match="above 0"):
        fit_temperature(np.zeros((1, 1)), np.ones((1, 1), int), exclusive=False, held_against=0.0)
