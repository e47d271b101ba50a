"""Balanced accuracy's interval against its parts and by summing over every table."""

from __future__ import annotations

import pytest
from scipy.stats import multinomial

from medfm_compress.bench.stats.balanced_accuracy import balanced_difference, p_balanced_below
from medfm_compress.bench.stats.tango import tango

MARGIN = 0.05


def test_it_is_half_of_tangos_interval_where_the_other_part_is_certain() -> None:
    # A hundred million unchanged negatives have an interval of no width.
    interval, part = balanced_difference((1, 6, 80), (0, 0, 10**8), 0.95), tango(1, 6, 80)
    assert (interval.low, interval.estimate, interval.high) == pytest.approx(
        (part.low / 2, part.estimate / 2, part.high / 2), abs=1e-6
    )
    assert interval.standard_error == pytest.approx(part.standard_error / 2)


def test_the_p_value_inverts_the_interval() -> None:
    positives, negatives = (1, 4, 50), (3, 9, 120)
    interval = balanced_difference(positives, negatives, 0.9)
    assert p_balanced_below(positives, negatives, interval.high) == pytest.approx(0.05, abs=1e-9)
    assert p_balanced_below(positives, negatives, interval.low) == pytest.approx(0.95, abs=1e-9)


def test_the_error_rate_at_the_margin_by_summing_over_every_table() -> None:
    # Sensitivity falls by 0.08 on 40 patients, specificity by 0.02 on 60: 0.05 in the mean, exactly the margin.
    tables = []
    for pairs, lost, gained in ((40, 0.10, 0.02), (60, 0.03, 0.01)):
        chances = [lost, gained, 1 - lost - gained]
        counts = [(b, c, pairs) for b in range(7) for c in range(16 if lost > 0.05 else 11)]
        tables.append(
            [(key, multinomial.pmf([key[1], key[0], pairs - key[0] - key[1]], pairs, chances)) for key in counts]
        )
    passes, total = 0.0, 0.0
    for positives, first in tables[0]:
        for negatives, second in tables[1]:
            total += first * second
            if first * second > 1e-6:
                passes += first * second * (balanced_difference(positives, negatives, 0.95).low > -MARGIN)
    assert total > 0.998
    assert 0.005 < passes < 0.030
