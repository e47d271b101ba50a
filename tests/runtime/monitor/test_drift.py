"""The drift test: a fair game as long as nothing changes, and a winning one when something does."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.monitor.drift import BETS, BLOCK, Capital, add, payoffs, staked, unstaked
from medfm_compress.runtime.monitor.histogram import BINS, MIN_COUNT, Histogram, summarise, total_variation


def test_every_bet_is_fair():
    p = (np.arange(100_000) + 0.5) / 100_000
    assert payoffs(p).shape == (100_000, BETS) and payoffs(p).min() > 0
    assert payoffs(p).mean(axis=0) == pytest.approx(np.ones(BETS), abs=1e-9)


def test_what_is_staked_and_what_is_not_is_all_there_is():
    bets = np.zeros(BETS)
    for images in range(3 * BLOCK):
        bets = staked(bets, np.array(0.5), images) / payoffs(np.array(0.5))  # as if every bet paid its stake back
    assert bets.sum() + unstaked(3 * BLOCK) == pytest.approx(1)
    assert [unstaked(i) for i in (0, 1, BLOCK, BLOCK + 1)] == [1, 1 / 2, 1 / 2, 1 / 3]


def test_the_first_image_of_an_exchangeable_sequence_wins_nothing():
    """The next of n + 1 exchangeable values is any of them with the same probability."""
    reference = [3, 5, 2]
    wins = []
    for position in range(3):
        for u in (np.arange(200) + 0.5) / 200:
            rest = [value - (i == position) for i, value in enumerate(reference)]  # the n + 1 values without it
            wins.append((reference[position], add(Capital(), rest, [0, 0, 0], position, u).evidence))
    assert np.average([win for _, win in wins], weights=[weight for weight, _ in wins]) == pytest.approx(1, abs=1e-9)


def simulate(draw, reference, images):
    counts, capital, largest = [0] * len(reference.counts), Capital(), 1.0
    for i in range(images):
        position = reference.bin_of(draw(i))
        capital = add(capital, reference.counts, counts, position, random.random())
        counts[position] += 1
        largest = max(largest, capital.evidence)
    return largest


random = np.random.default_rng(5)


def test_alarms_without_drift_are_as_rare_as_stated_and_with_drift_they_come():
    early = 0
    for _ in range(40):
        reference = summarise(random.normal(size=150).tolist())
        early += simulate(lambda _: random.normal(), reference, 300) >= 10
    assert early <= 9  # at most a tenth is promised; more than 9 of 40 has probability 0.01 then
    reference = summarise(random.normal(size=150).tolist())
    assert simulate(lambda i: random.normal() + (i >= 100), reference, 250) >= 100
    assert simulate(lambda i: random.normal() * (3 if i >= 100 else 1), reference, 300) >= 100


def test_the_vectorised_game_is_the_same():
    reference, positions, us = [10, 20, 30], [0, 2, 1, 2, 0, 0], np.linspace(0.05, 0.9, 6)
    capital, counts, bets = Capital(), [0, 0, 0], np.zeros((2, BETS))
    for i, (position, u) in enumerate(zip(positions, us, strict=True)):
        both = np.add(reference, counts)
        p = (both[:position].sum() + u * (both[position] + 1)) / (both.sum() + 1)
        bets = staked(bets, np.array([p, p]), i)
        capital = add(capital, reference, counts, position, u)
        counts[position] += 1
    assert bets[0] == pytest.approx(capital.bets) and bets[1] == pytest.approx(capital.bets)
    assert unstaked(6) + bets[0].sum() == pytest.approx(capital.evidence)


def test_histograms_hide_everybody():
    values = random.normal(size=237).tolist()
    histogram = summarise(values)
    assert min(histogram.counts) >= MIN_COUNT and len(histogram.counts) <= BINS and sum(histogram.counts) == 237
    assert not set(histogram.edges) & set(values)
    assert [sum(histogram.bin_of(value) == i for value in values) for i in range(len(histogram.counts))] == list(
        histogram.counts
    )


@pytest.mark.parametrize("values", [[0.2] * 60, [0.0] * 60, [0.0] * 55 + [1.0] * 5, [0.0] * 30 + [1.0] * 30])
def test_values_that_hardly_vary_have_bins_too(values):
    histogram = summarise(values)
    assert all(count == 0 or count >= MIN_COUNT for count in histogram.counts) and sum(histogram.counts) == 60
    assert histogram.bin_of(50.0) == len(histogram.counts) - 1 and histogram.bin_of(-50.0) == 0


def test_a_histogram_that_contradicts_itself_is_refused():
    for edges, counts in (((1.0, 1.0), (10, 10, 10)), ((1.0,), (10,)), ((1.0,), (3, 10)), ((float("nan"),), (10, 10))):
        with pytest.raises(InputError):
            Histogram(edges=edges, counts=counts)
    assert total_variation((10, 0), (0, 20)) == 1 and total_variation((5, 5), (20, 20)) == 0
