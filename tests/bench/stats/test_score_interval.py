"""The score interval: Tango's where it must be, against published examples and a closed form."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from medfm_compress.bench.stats.metrics import Sample
from medfm_compress.bench.stats.patient_effects import paired_effects
from medfm_compress.bench.stats.score_interval import (
    floor_without_variation,
    p_score_below,
    paired_shares,
    score_interval,
    smallest_count,
    smallest_count_of_precision,
)
from medfm_compress.bench.types.interval import Interval
from medfm_compress.runtime.errors import InputError


def tango(gained: int, lost: int, pairs: int, level: float = 0.95) -> Interval:
    return score_interval(paired_shares(gained, lost, pairs), level)


def p_tango_below(gained: int, lost: int, pairs: int, bound: float) -> float:
    return p_score_below(paired_shares(gained, lost, pairs), bound)


def test_published_examples() -> None:
    # Tango 1998, the cross-over trial of contact lenses: 44 pairs, one discordant; 90% interval -0.096 to 0.037.
    lenses = tango(0, 1, 44, 0.90)
    assert (lenses.low, lenses.high) == pytest.approx((-0.096, 0.037), abs=5e-4)
    # Fagerland, Lydersen, Laake, Statistics in Medicine 33 (2014) 2850-2875, airways: -0.517, -0.026.
    airways = tango(1, 7, 21)
    assert (airways.low, airways.high) == pytest.approx((-0.517, -0.026), abs=5e-4)
    # PropCIs::scoreci.mp(25, 28, 618, 0.90): -0.0148, 0.0247.
    votes = tango(28, 25, 618, 0.90)
    assert (votes.low, votes.high) == pytest.approx((-0.0148, 0.0247), abs=5e-5)


@pytest.mark.parametrize(
    ("gained", "lost", "pairs", "low", "high"),
    [
        # Roots of the quartic of Yang, Sun, Hardin, Statistics in Medicine 32 (2013) 1336-1342, by R's polyroot; the
        # likelihood maximised numerically by R's optimize under each supposed difference gives the same to 3e-9.
        (1, 7, 21, -0.517232276421, -0.0260030324809),
        (12, 2, 50, 0.0611124061863, 0.344708748282),
        (0, 1, 44, -0.118077096982, 0.0593932311166),
        (20, 40, 160, -0.218064244167, -0.0308645331331),
        (28, 25, 618, -0.0187850564974, 0.0287320212593),
        (3, 0, 500, -0.00167008650432, 0.0174902521041),
        (10, 10, 200, -0.0469485285325, 0.0469485285325),
        (30, 0, 30, 0.772973213652, 1.0),
        (120, 60, 1000, 0.0340965695227, 0.086490465664),
    ],
)
def test_the_closed_form_agrees(gained: int, lost: int, pairs: int, low: float, high: float) -> None:
    interval = tango(gained, lost, pairs)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-10)
    assert interval.estimate == pytest.approx((gained - lost) / pairs)
    mirrored = tango(lost, gained, pairs)
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low))


def test_the_p_value_inverts_the_interval() -> None:
    for gained, lost, pairs in ((1, 7, 21), (12, 2, 50), (0, 0, 90), (3, 0, 500)):
        for level in (0.8, 0.95):
            interval = tango(gained, lost, pairs, level)
            assert p_tango_below(gained, lost, pairs, interval.high) == pytest.approx((1 - level) / 2)
            assert p_tango_below(gained, lost, pairs, interval.low) == pytest.approx((1 + level) / 2)


def test_at_no_difference_the_test_is_mcnemars_without_correction() -> None:
    for gained, lost in ((12, 2), (7, 20)):
        z = (gained - lost) / (gained + lost) ** 0.5
        assert p_tango_below(gained, lost, 100, 0.0) == pytest.approx(stats.norm.cdf(z))


def test_every_table_of_twelve_pairs_has_an_interval_around_its_estimate() -> None:
    for gained, lost in itertools.product(range(13), repeat=2):
        if gained + lost <= 12:
            interval = tango(gained, lost, 12)
            assert -1 <= interval.low <= interval.estimate <= interval.high <= 1
            assert interval.high - interval.low > 0.2


def test_without_discordance_the_width_solves_the_score_equation() -> None:
    for total in (10, 44, 500):
        delta = floor_without_variation(total)
        assert total * delta / (total * delta * (1 - delta)) ** 0.5 == pytest.approx(stats.norm.ppf(0.975))
        assert tango(0, 0, total).high == pytest.approx(delta)
        assert tango(0, 0, total).standard_error is None
    assert floor_without_variation(0) == 1


def test_so_many_patients_and_not_one_fewer_exclude_a_loss_that_nobody_shows() -> None:
    for margin in (0.01, 0.02, 0.05, 0.3):
        count = smallest_count(margin, 0.025)
        assert tango(0, 0, count).low > -margin >= tango(0, 0, count - 1).low
    assert [smallest_count(margin, 0.025) for margin in (0.01, 0.02, 0.03, 0.05, 0.1)] == [381, 189, 125, 73, 35]


def test_average_precision_takes_as_many_as_one_negative_above_all_costs() -> None:
    for margin in (0.05, 0.1, 0.2):
        count = smallest_count_of_precision(margin, 0.025)
        for positives, excluded in ((count, True), (count - 3, False)):
            # A perfect ranking twice, with so many negatives that they are not the rarer.
            truth = (np.arange(50 * positives) < positives).astype(np.int64)
            scores = np.linspace(0.9, 0.1, len(truth))[None] * np.array([[1.0], [0.9]])
            effects = paired_effects(Sample(scores, truth[None].repeat(2, 0), truth, np.arange(len(truth))), "auprc")
            assert (score_interval(effects, 0.95).low > -margin) == excluded


def test_impossible_counts_are_refused() -> None:
    for counts in ((-1, 0, 5), (3, 3, 5), (0, 0, 0)):
        with pytest.raises(InputError, match="impossible"):
            tango(*counts)
