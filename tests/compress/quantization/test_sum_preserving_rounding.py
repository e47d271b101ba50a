"""Rounding with kept sums: the sums, the cost, and what it does to smooth images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medfm_compress.compress.quantization.sum_preserving_rounding import round_keeping_sums
from medfm_compress.compress.quantization.weights import quantize_weight


@pytest.mark.parametrize("size", [1, 9, 49, 256])
def test_sums_are_at_most_half_a_step_off(size: int) -> None:
    weights = np.random.default_rng(0).uniform(-100, 100, (40, 3, size))
    rounded = round_keeping_sums(weights, 127)
    assert rounded.dtype == np.int8 and rounded.shape == weights.shape
    assert np.abs((rounded - weights).sum(axis=-1)).max() <= 0.5 + 1e-9
    assert np.abs(rounded - weights).max() < 1


def test_no_other_choice_with_such_a_sum_is_nearer() -> None:
    """Against every combination of rounding up or down."""
    for weights in np.random.default_rng(1).uniform(-5, 5, (50, 6)):
        rounded = round_keeping_sums(weights[None], 127)[0]
        choices = itertools.product(*zip(np.floor(weights), np.ceil(weights), strict=True))
        allowed = [np.array(candidate) for candidate in choices if abs(sum(candidate) - weights.sum()) <= 0.5]
        best = min(((candidate - weights) ** 2).sum() for candidate in allowed)
        assert ((rounded - weights) ** 2).sum() == pytest.approx(best)


@pytest.mark.parametrize("limit", [63, 127])
def test_the_limit_holds(limit: int) -> None:
    weights = np.random.default_rng(2).choice([-limit, limit - 0.4, limit - 0.3, limit], (200, 9))
    assert np.abs(round_keeping_sums(weights, limit).astype(int)).max() <= limit


def test_integers_stay() -> None:
    weights = np.arange(-12.0, 12.0).reshape(2, 12)
    np.testing.assert_array_equal(round_keeping_sums(weights, 127), weights)


def test_a_convolution_answers_to_brightness_as_before() -> None:
    """Filters with sum 0 on a constant image: with plain rounding they would see it."""
    weight = np.random.default_rng(3).standard_normal((32, 3, 7, 7)).astype(np.float32)
    weight -= weight.mean(axis=(2, 3), keepdims=True)
    values, scales = quantize_weight(weight, 0)
    kept = np.abs(values.astype(int).sum(axis=(2, 3)) * scales[:, None])
    plain = np.abs(np.rint(weight / scales.reshape(-1, 1, 1, 1)).sum(axis=(2, 3)) * scales[:, None])
    assert kept.max() <= 0.51 * scales.max()
    assert kept.mean() < 0.2 * plain.mean()


def test_matrices_are_rounded_to_the_nearest() -> None:
    weight = np.random.default_rng(4).standard_normal((16, 24)).astype(np.float32)
    for axis, shape in ((0, (-1, 1)), (1, (1, -1))):
        values, scales = quantize_weight(weight, axis)
        np.testing.assert_array_equal(values, np.rint(weight / scales.reshape(shape)))
