"""Intervals of quantiles against SciPy, the known numbers of values needed, and simulated calls in rounds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medfm_compress.bench.stats.quantile_intervals import (
    quantile_interval,
    quantile_over_rounds,
    quantile_upper_bound,
    values_needed,
)
from medfm_compress.runtime.errors import InputError


@pytest.mark.parametrize(("q", "count"), [(0.5, 25), (0.5, 200), (0.9, 120), (0.99, 1000), (0.1, 60)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_scipy_agrees(q: float, count: int, level: float) -> None:
    values = np.random.default_rng(count).exponential(size=count)
    ours = quantile_interval(values, q, level)
    theirs = stats.quantile_test(values, p=q).confidence_interval(confidence_level=level)
    assert ours is not None
    assert (ours.low, ours.high) == (theirs.low, theirs.high)
    assert ours.estimate == pytest.approx(np.quantile(values, q))


def test_the_median_of_a_table() -> None:
    # Conover, Practical Nonparametric Statistics: n = 16 at 95% (and more): the 4th and the 13th value.
    interval = quantile_interval(range(1, 17), 0.5)
    assert interval is not None
    assert (interval.low, interval.high) == (4, 13)


@pytest.mark.parametrize(
    ("q", "level", "one_sided", "count"),
    [(0.99, 0.95, True, 299), (0.95, 0.95, True, 59), (0.9, 0.95, True, 29), (0.99, 0.95, False, 368)],
)
def test_below_so_many_values_there_is_no_upper_end(q: float, level: float, one_sided: bool, count: int) -> None:
    # 59 and 299 are Wilks's numbers for 95/95 and 95/99.
    assert values_needed(q, level, one_sided=one_sided) == count
    values = np.arange(count, dtype=float)
    if one_sided:
        assert quantile_upper_bound(values, q, level) == count - 1
        assert quantile_upper_bound(values[1:], q, level) is None
    else:
        assert quantile_interval(values, q, level) is not None
        assert quantile_interval(values[1:], q, level) is None


def test_independent_values_are_covered() -> None:
    rng = np.random.default_rng(1)
    truth, covered, studies = stats.lognorm.ppf(0.95, 0.5), 0, 2000
    for _ in range(studies):
        interval = quantile_interval(rng.lognormal(sigma=0.5, size=200), 0.95)
        assert interval is not None
        covered += interval.low <= truth <= interval.high
    # Never below the level; the ranks are whole numbers, so a little above it.
    assert 0.945 <= covered / studies <= 0.985


def test_calls_in_rounds_are_covered_only_when_rounds_are_drawn() -> None:
    # 40 rounds of 15 calls; half of the log-latency's variance is the round's.
    rng = np.random.default_rng(2)
    truth, studies = 1.0, 150
    covered = {"rounds": 0, "calls": 0}
    for number in range(studies):
        logs = 0.2 * (np.sqrt(0.5) * rng.normal(size=(40, 1)) + np.sqrt(0.5) * rng.normal(size=(40, 15)))
        values = np.exp(logs).ravel()
        for name, interval in (
            ("rounds", quantile_over_rounds(values, 15, 0.5, resamples=200, seed=number)),
            ("calls", quantile_interval(values, 0.5)),
        ):
            assert interval is not None
            covered[name] += interval.low <= truth <= interval.high
    assert covered["rounds"] / studies >= 0.89
    assert covered["calls"] / studies <= 0.75


def test_too_few_rounds_or_values_give_none() -> None:
    values = np.arange(400, dtype=float)
    assert quantile_over_rounds(values, 50, 0.99) is None
    assert quantile_over_rounds(values[:360], 20, 0.99) is None
    interval = quantile_over_rounds(values, 20, 0.99)
    assert interval is not None
    assert interval.low <= interval.estimate <= interval.high <= 399
    assert interval == quantile_over_rounds(values, 20, 0.99)


def test_impossible_questions_are_refused() -> None:
    with pytest.raises(InputError, match="whole number of rounds"):
        quantile_over_rounds([1.0] * 7, 3, 0.5)
    for values in ([], [1.0, np.nan]):
        with pytest.raises(InputError, match="finite values"):
            quantile_interval(values, 0.5)
    with pytest.raises(InputError, match="does not exist"):
        values_needed(1.0)
