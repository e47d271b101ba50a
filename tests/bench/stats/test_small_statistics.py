"""Holm's adjustment and the intervals of proportions, against R and published figures."""

from __future__ import annotations

import pytest
from scipy import stats

from medfm_compress.bench.stats.holm import holm
from medfm_compress.bench.stats.wilson import wilson
from medfm_compress.runtime.errors import InputError


def test_holm_agrees_with_r() -> None:
    # p.adjust(c(0.01, 0.04, 0.03, 0.005, 0.04, 0.5), "holm")
    adjusted = holm((0.01, 0.04, 0.03, 0.005, 0.04, 0.5))
    assert adjusted == pytest.approx((0.05, 0.12, 0.12, 0.03, 0.12, 0.5))


def test_holm_keeps_one_p_value_never_exceeds_one_and_takes_none() -> None:
    assert holm((0.03,)) == (0.03,)
    assert holm((0.6, 0.7, 0.8)) == (1.0, 1.0, 1.0)
    assert holm(()) == ()


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_probability(p: float) -> None:
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        holm((0.5, p))


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (10, 10), (81, 263), (1, 29)])
def test_wilson_agrees_with_scipy(successes: int, total: int) -> None:
    ours = wilson(successes, total)
    theirs = stats.binomtest(successes, total).proportion_ci(method="wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_refuses_impossible_counts() -> None:
    for successes, total in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(InputError, match="no proportion"):
            wilson(successes, total)
