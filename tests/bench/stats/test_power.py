"""What a study could have shown, against SciPy's noncentral t, the textbook's sample size and a simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from medfm_compress.bench.stats.power import reach
from medfm_compress.runtime.errors import InputError


def test_with_a_known_error_it_is_the_sum_of_two_quantiles() -> None:
    reachable = reach(0.01, 0.02)
    assert reachable.smallest_margin == pytest.approx((1.959963984540054 + 0.8416212335729143) * 0.01)
    assert reachable.times_patients == pytest.approx((reachable.smallest_margin / 0.02) ** 2)
    assert reachable.reason == ""


@pytest.mark.parametrize("degrees", [2, 5, 20, 100.5, 5000])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_with_an_estimated_error_it_is_exact(degrees: float, power: float) -> None:
    margin = reach(1.0, 1.0, power=power, degrees=degrees).smallest_margin
    assert stats.nct.sf(stats.t.ppf(0.975, degrees), degrees, margin) == pytest.approx(power, abs=1e-5)


def test_the_sample_size_of_two_parallel_groups() -> None:
    # Standard deviation 40, margin 10, one-sided 2.5%, power 90%: 2 (z + z)² 40² / 10² = 336.2 a group. With n a group
    # the standard error is 40 sqrt(2/n); ask from 100 a group how many times as many are needed. t asks for one more.
    error = 40 * (2 / 100) ** 0.5
    assert math.ceil(100 * reach(error, 10, power=0.9).times_patients) == 337
    assert 336.5 < 100 * reach(error, 10, power=0.9, degrees=198).times_patients < 338


def test_simulated_studies_of_that_margin_have_that_power() -> None:
    rng = np.random.default_rng(0)
    patients, margin = 15, reach(1 / 15**0.5, 1.0, degrees=14).smallest_margin
    x = rng.normal(size=(40_000, patients))
    low = x.mean(axis=1) - stats.t.ppf(0.975, 14) * x.std(axis=1, ddof=1) / patients**0.5
    assert (low > -margin).mean() == pytest.approx(0.8, abs=0.008)


def test_so_many_times_the_patients_rule_the_margin_out() -> None:
    for degrees in (12.0, math.inf):
        times = reach(0.02, 0.03, degrees=degrees).times_patients
        more = reach(0.02 / times**0.5, 0.03, degrees=degrees * times)
        assert more.smallest_margin == pytest.approx(0.03, rel=1e-3)
        assert more.times_patients == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("error", [None, 0.0])
def test_no_error_is_not_known_and_not_no_doubt(error: float | None) -> None:
    reachable = reach(error, 0.02)
    assert (reachable.smallest_margin, reachable.times_patients) == (None, None)
    assert "unknown" in reachable.reason


@pytest.mark.parametrize(
    ("error", "margin", "alpha", "power"),
    [(0.1, 0, 0.025, 0.8), (0.1, 0.1, 0.6, 0.8), (0.1, 0.1, 0.025, 0.4), (math.nan, 0.1, 0.025, 0.8)],
)
def test_impossible_questions_are_refused(error: float, margin: float, alpha: float, power: float) -> None:
    with pytest.raises(InputError):
        reach(error, margin, alpha=alpha, power=power)
