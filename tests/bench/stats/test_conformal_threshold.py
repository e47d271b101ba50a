"""The threshold that normal cases alone give, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.bench.evaluate.operating_points import choose_operating_point
from medfm_compress.bench.stats.conformal_threshold import conformal_score, least_cases
from medfm_compress.bench.types.operating_rule import needs_positives, parse_rule
from medfm_compress.runtime.errors import InputError


@pytest.mark.parametrize(("rate", "cases"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.5, 1), (0.3, 3), (0.999, 1)])
def test_the_fewest_cases_are_those_of_which_a_rank_is_left(rate: float, cases: int) -> None:
    assert least_cases(rate) == cases
    conformal_score(np.arange(cases, dtype=float), rate)
    if cases > 1:
        with pytest.raises(InputError, match=f"{cases} are needed"):
            conformal_score(np.arange(cases - 1, dtype=float), rate)


@pytest.mark.parametrize("count", [19, 24, 40, 200])
def test_the_rank_is_numpys_higher_quantile_of_n_plus_1(count: int) -> None:
    scores = np.random.default_rng(count).normal(size=count)
    level = np.ceil((count + 1) * 0.95) / count
    assert conformal_score(scores, 0.05) == np.quantile(scores, min(level, 1), method="inverted_cdf")


@pytest.mark.parametrize("count", [19, 50])
def test_the_rate_holds_over_draws(count: int) -> None:
    """10,000 draws of normal cases and one more each; the binomial spread of a rate of 5% is 0.2%."""
    scores = np.random.default_rng(0).gamma(0.5, size=(10_000, count + 1))
    reached = np.array([conformal_score(row[:-1], 0.05) for row in scores])
    assert 0.05 - 1 / (count + 1) - 0.007 < (scores[:, -1] > reached).mean() < 0.05 + 0.007


def scored(values: list[float], truth: list[int], rate: float = 0.1):
    rule = f"false-alarm-rate<={rate:g}"
    return choose_operating_point("abnormal", np.array(values), np.array(truth), rule=rule)


def test_the_threshold_stands_midway_and_abnormal_cases_do_not_move_it() -> None:
    normal = [number / 100 for number in range(20)]  # the 19th of 20 is reached at 10%
    alone = scored(normal, [0] * 20)
    assert alone.threshold == pytest.approx(0.185) and alone.specificity == 0.95
    assert (alone.positives, alone.sensitivity) == (0, 0)
    beside = scored([*normal, 0.182, 0.9], [0] * 20 + [1, 1])
    assert beside.threshold == alone.threshold and beside.sensitivity == 0.5


def test_the_highest_normal_score_is_reached_where_there_are_just_enough() -> None:
    point = scored([number / 100 for number in range(9)], [0] * 9)
    assert point.threshold == pytest.approx((0.08 + 1) / 2) and point.specificity == 1


def test_ties_are_not_called() -> None:
    point = scored([0.2] * 15 + [0.4] * 5, [0] * 20)
    assert point.threshold > 0.4 and point.specificity == 1


def test_neighbouring_numbers_are_told_apart() -> None:
    high = float(np.nextafter(0.5, 1))
    point = scored([0.5] * 18 + [high, high], [0] * 20, rate=0.15)
    assert point.threshold == high and point.specificity == 0.9


def test_scores_of_1_leave_no_room() -> None:
    with pytest.raises(InputError, match="scores 1 on normal"):
        scored([1.0] * 20, [0] * 20)


@pytest.mark.parametrize("rule", ["false-alarm-rate<=0", "false-alarm-rate<=1", "false-alarm-rate>=0.1", "rate<=0.1"])
def test_rules_that_are_none(rule: str) -> None:
    with pytest.raises(InputError, match=r"false-alarm-rate<=0\.05"):
        parse_rule(rule)


def test_which_rules_look_at_cases_with_the_finding() -> None:
    assert not needs_positives("false-alarm-rate<=0.05")
    assert all(map(needs_positives, ("youden", "sensitivity>=0.95", "specificity>=0.9")))
