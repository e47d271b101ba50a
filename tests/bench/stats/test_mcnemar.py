"""McNemar's test against statsmodels and R."""

from __future__ import annotations

import pytest

from medfm_compress.bench.stats.mcnemar import mcnemar
from medfm_compress.runtime.errors import InputError

COUNTS = [(1, 7), (25, 28), (86, 150), (0, 6), (5, 5), (700, 800)]


@pytest.mark.parametrize(("gained", "lost"), COUNTS)
def test_statsmodels_agrees(gained: int, lost: int) -> None:
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    table = [[10, gained], [lost, 10]]
    for method, arguments in (
        ("exact", {"exact": True}),
        ("asymptotic", {"exact": False, "correction": False}),
        ("corrected", {"exact": False, "correction": True}),
    ):
        if (gained, lost, method) == (5, 5, "corrected"):
            continue  # statsmodels lets the correction overshoot 0; R does not.
        theirs = tables.mcnemar(table, **arguments).pvalue
        assert mcnemar(gained, lost, method) == pytest.approx(theirs, rel=1e-9)


def test_published_mid_p_and_r() -> None:
    # Fagerland, Lydersen, Laake 2013, table 1, airway hyper-responsiveness: exact 0.070, mid-p 0.039, asymptotic 0.034.
    assert mcnemar(1, 7, "exact") == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(1, 7) == pytest.approx(0.0391, abs=5e-5)
    assert mcnemar(1, 7, "asymptotic") == pytest.approx(0.0339, abs=5e-5)
    # mcnemar.test(matrix(c(794, 86, 150, 570), 2))$p.value of R's manual page, with continuity correction.
    assert mcnemar(86, 150, "corrected") == pytest.approx(4.114562e-05, rel=1e-6)
    # mcnemar.test(matrix(c(10, 5, 5, 10), 2))$p.value
    assert mcnemar(5, 5, "corrected") == 1


def test_without_discordance_nothing_is_shown() -> None:
    for method in ("exact", "mid-p", "asymptotic", "corrected"):
        assert mcnemar(0, 0, method) == 1
        assert 0 < mcnemar(0, 1, method) <= 1
    with pytest.raises(InputError, match="impossible"):
        mcnemar(-1, 3)
