"""Running statistics against numpy over all values at once."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from medfm_compress.compress.quantization.activation_statistics import BINS, RunningStatistics, merged, sampling_stride


def drawn(count: int, shape: tuple[int, ...], seed: int = 0) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return [(random.standard_normal(shape) * (1 + i)).astype(np.float32) for i in range(count)]


def test_extremes_and_means_of_extremes_are_exact() -> None:
    cases = drawn(5, (1, 7, 11, 13))
    running = RunningStatistics(None)
    assert all(running.add(case) for case in cases)
    result = running.result()
    assert result.low == min(case.min() for case in cases)
    assert result.high == max(case.max() for case in cases)
    assert result.mean_low == pytest.approx(np.mean([case.min() for case in cases]))
    assert result.mean_high == pytest.approx(np.mean([case.max() for case in cases]))
    assert result.channel_low is result.channel_high is result.channel_mean is None


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 7, 11, 13)), (-1, (1, 19, 6)), (-1, (3, 8))])
def test_channels_are_exact(axis: int, shape: tuple[int, ...]) -> None:
    cases = drawn(4, shape)
    running = RunningStatistics(axis)
    for case in cases:
        running.add(case)
    result = running.result()
    together = np.moveaxis(np.stack(cases), axis + 1 if axis >= 0 else axis, 0).reshape(shape[axis], -1)
    assert result.channel_low is not None and result.channel_high is not None and result.channel_mean is not None
    np.testing.assert_array_equal(result.channel_low, together.min(axis=1))
    np.testing.assert_array_equal(result.channel_high, together.max(axis=1))
    np.testing.assert_allclose(result.channel_mean, together.mean(axis=1), atol=1e-6)
    assert result.channel_low.dtype == result.channel_mean.dtype == np.float32


def test_small_tensors_enter_the_histogram_whole() -> None:
    cases = drawn(6, (4, 100))
    running = RunningStatistics(None)
    for case in cases:
        running.add(case)
    result = running.result()
    values = np.concatenate([case.ravel() for case in cases])
    assert np.log2(result.bound) == np.rint(np.log2(result.bound)) and result.bound / 2 < np.abs(values).max()
    expected, _ = np.histogram(values, BINS, (-result.bound, result.bound))
    assert result.counts is not None and result.counts.sum() == values.size
    assert np.abs(result.counts - expected).sum() <= 4  # values within rounding of an edge


def test_histogram_does_not_depend_on_the_order() -> None:
    cases = drawn(6, (4, 100))
    forth, back = RunningStatistics(None), RunningStatistics(None)
    for case in cases:
        forth.add(case)
    for case in reversed(cases):
        back.add(case)
    assert forth.result().bound == back.result().bound
    np.testing.assert_array_equal(forth.result().counts, back.result().counts)


def test_the_part_of_a_large_tensor_is_spread_over_every_column() -> None:
    """Each column is one value: a stride that divides the width would see few of them."""
    columns = np.tile(np.linspace(-1, 1, 197, dtype=np.float32), (1, 6, 197, 1))
    running = RunningStatistics(None)
    for _ in range(3):
        running.add(columns)
    counts = running.result().counts
    assert counts is not None and 3 * 3000 < counts.sum() < 3 * 6000
    assert np.count_nonzero(counts) == 197


def test_quantiles_of_a_part_are_those_of_the_whole() -> None:
    cases = drawn(10, (1, 16, 56, 56))
    running = RunningStatistics(None)
    for case in cases:
        running.add(case)
    result = running.result()
    assert result.counts is not None
    edges = np.linspace(-result.bound, result.bound, BINS + 1)[1:]
    got = np.interp([0.01, 0.25, 0.9], np.cumsum(result.counts) / result.counts.sum(), edges)
    np.testing.assert_allclose(got, np.quantile(np.stack(cases), [0.01, 0.25, 0.9]), rtol=0.1)


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_taken_in(axis: int | None, bad: float) -> None:
    running = RunningStatistics(axis)
    good = drawn(1, (1, 3, 5, 5))[0]
    assert running.add(good)
    before = running.result()
    spoilt = good.copy()
    spoilt[0, 1, 2, 3] = bad
    assert not running.add(spoilt)
    assert running.result().mean_low == before.mean_low
    np.testing.assert_array_equal(running.result().counts, before.counts)


def test_constants_are_fine() -> None:
    running = RunningStatistics(1)
    running.add(np.zeros((1, 3, 4, 4), np.float32))
    running.add(np.full((1, 3, 4, 4), 2.5, np.float32))
    result = running.result()
    assert (result.low, result.high, result.mean_high) == (0.0, 2.5, 1.25)
    assert result.counts is not None and sorted(result.counts[result.counts > 0]) == [48, 48]


def test_merging_keeps_the_values_where_they_were() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 1000)
    narrow, _ = np.histogram(values, 64, (-1, 1))
    wide, _ = np.histogram(values, 64, (-2, 2))
    np.testing.assert_array_equal(merged(narrow), wide)


@pytest.mark.parametrize("size", [1, 100, 4096, 8192, 197 * 197 * 6, 384 * 197, 64 * 112 * 112, 30030])
def test_stride_divides_nothing(size: int) -> None:
    stride = sampling_stride(size)
    assert np.gcd(stride, size) == 1
    assert min(size, 1500) <= size / stride < 8193
