"""Student's t and Satterthwaite's degrees of freedom against SciPy."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from medfm_compress.bench.stats.t_distribution import satterthwaite, t_cdf, t_quantile
from medfm_compress.runtime.errors import InputError


@pytest.mark.parametrize("degrees", [0.5, 1, 2, 3.3, 10, 49, 120.5, 999, 1e5])
def test_the_distribution_and_its_quantile_are_scipys(degrees: float) -> None:
    for t in (-40, -5, -2, -0.3, 0, 0.1, 1, 3, 12):
        assert t_cdf(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), rel=1e-8)
    for p in (1e-6, 0.001, 0.025, 0.3, 0.5, 0.9, 0.975, 0.9999):
        assert t_quantile(p, degrees) == pytest.approx(stats.t.ppf(p, degrees), rel=1e-8, abs=1e-12)


def test_infinite_degrees_are_the_normal_distribution() -> None:
    assert t_quantile(0.975, math.inf) == pytest.approx(1.959963984540054, abs=1e-12)
    assert t_cdf(-1.0, math.inf) == pytest.approx(stats.norm.cdf(-1), abs=1e-12)
    assert (t_cdf(math.inf, 3), t_cdf(-math.inf, 3)) == (1, 0)


def test_satterthwaite_is_welchs_formula() -> None:
    # SciPy's Welch test of two samples gives its degrees of freedom.
    x, y = [1.0, 4.0, 2.0, 8.0, 5.0], [3.0, 3.5, 2.5, 4.0]
    reference = stats.ttest_ind(x, y, equal_var=False).df
    parts = [stats.tvar(sample) / len(sample) for sample in (x, y)]
    assert satterthwaite(parts, [4, 3]) == pytest.approx(reference)
    assert satterthwaite([0.0, 2.0], [4, 3]) == pytest.approx(3)
    assert satterthwaite([0.0, 0.0], [4, 3]) == 7


def test_what_does_not_exist_is_refused() -> None:
    for p in (0.0, 1.0, math.nan):
        with pytest.raises(InputError, match="does not exist"):
            t_quantile(p, 5)
    with pytest.raises(InputError, match="more than 0"):
        t_cdf(1.0, 0)
