"""Range estimators against numpy on the raw values and a brute-force search."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.activation_statistics import RunningStatistics, TensorStatistics
from medfm_compress.compress.quantization.range_estimators import ESTIMATORS, Range, estimate_ranges
from medfm_compress.runtime.errors import InputError


def statistics(*cases: NDArray[np.float32]) -> TensorStatistics:
    running = RunningStatistics(None)
    for case in cases:
        assert running.add(case)
    return running.result()


def estimate(estimator: str, *cases: NDArray[np.float32], symmetric: bool = False) -> Range:
    return estimate_ranges({"x": statistics(*cases)}, estimator, symmetric=symmetric)["x"]


def quantization_error(x: NDArray[np.float32], low: float, high: float, *, symmetric: bool) -> float:
    """Mean squared error of x through 8 bits, with a zero point that is a level."""
    scale = max((high - low) / (254 if symmetric else 255), 1e-30)
    zero, least, most = (0, -127, 127) if symmetric else (round(-low / scale), 0, 255)
    levels = np.clip(np.rint(x.astype(np.float64) / scale) + zero, least, most)
    return float((((levels - zero) * scale - x) ** 2).mean())


def shapes_of_values() -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(3)
    normal = random.standard_normal(40000)
    gelu = normal * 2 * (normal > -3) / (1 + np.exp(-3.4 * normal))
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "heavy": random.standard_t(3, 40000),
        "gelu": gelu,
        "outliers": np.concatenate([normal, [60.0, -25.0]]),
        "positive": random.uniform(2, 3, 40000),
        "two levels": np.where(normal > 1, 5.0, 0.0),
    }


CASES = {name: [part.astype(np.float32) for part in np.split(x[:40000], 10)] for name, x in shapes_of_values().items()}
VALUES = {name: x.astype(np.float32) for name, x in shapes_of_values().items()}


def test_minmax_is_the_extremes() -> None:
    cases = CASES["heavy"]
    assert estimate("minmax", *cases) == (min(c.min() for c in cases), max(c.max() for c in cases))


def test_mean_minmax_is_the_mean_of_each_case() -> None:
    cases = CASES["normal"]
    expected = (np.mean([c.min() for c in cases]), np.mean([c.max() for c in cases]))
    assert estimate("mean-minmax", *cases) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["normal", "relu", "heavy", "gelu"])
def test_percentile_is_numpys(name: str) -> None:
    cases = CASES[name]
    values = np.concatenate(cases)
    ordered = np.sort(values)
    estimated = estimate("percentile", *cases)
    # between the neighbours in rank of the exact quantile, give or take a bin
    bin_width = 2 * statistics(*cases).bound / 8192
    assert ordered[2] - bin_width <= estimated.low <= ordered[5] + bin_width
    assert ordered[-6] - bin_width <= estimated.high <= ordered[-3] + bin_width


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("name", list(CASES))
def test_mse_is_as_good_as_brute_force(name: str, symmetric: bool) -> None:
    values = np.concatenate(CASES[name])
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    fractions = np.linspace(0.05, 1, 40)
    if symmetric:
        pairs = [(-e, e) for e in max(-low, high) * fractions]
    else:
        pairs = list(itertools.product(low * fractions if low else [0.0], high * fractions))
    best = min(quantization_error(values, *pair, symmetric=symmetric) for pair in pairs)
    estimated = estimate("mse", *CASES[name], symmetric=symmetric)
    spread = float(((values.max() - values.min()) / 255) ** 2)
    assert quantization_error(values, *estimated, symmetric=symmetric) <= 1.06 * best + 1e-4 * spread


def test_mse_clips_where_it_pays_only() -> None:
    heavy, flat = estimate("mse", *CASES["heavy"]), estimate("mse", *CASES["positive"])
    assert heavy.high < 0.95 * estimate("minmax", *CASES["heavy"]).high
    assert flat.high == pytest.approx(CASES["positive"][0].max(), rel=0.01)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", list(CASES))
def test_every_range_holds_zero(estimator: str, name: str) -> None:
    for x in (CASES[name], [-c for c in CASES[name]]):
        estimated = estimate(estimator, *x)
        assert estimated.low <= 0 <= estimated.high and estimated.low < estimated.high
        both = estimate(estimator, *x, symmetric=True)
        assert both.low == -both.high < 0


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("constant", [0.0, 3.0, -2.0, 1e-30])
def test_a_constant_gets_a_safe_range(estimator: str, symmetric: bool, constant: float) -> None:
    estimated = estimate(estimator, np.full((1, 3, 4, 4), constant, np.float32), symmetric=symmetric)
    assert estimated.high - estimated.low > 1e-6
    assert estimated.low - 1e-6 <= constant <= estimated.high + 1e-6


@pytest.mark.parametrize("estimator", ["percentile", "mse"])
def test_without_a_histogram_it_is_minmax(estimator: str) -> None:
    bare = TensorStatistics(low=-1.0, high=2.0, mean_low=-0.5, mean_high=1.0, counts=None, bound=0.0)
    assert estimate_ranges({"x": bare}, estimator)["x"] == (-1.0, 2.0)


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(InputError, match=r"median.*minmax, percentile, mean-minmax, mse"):
        estimate_ranges({}, "median")
