"""Logits to probabilities to calls."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.errors import InputError, Refused
from medfm_compress.runtime.task import OperatingPoint, Task

LOGITS = np.random.default_rng(0).normal(scale=5, size=(20, 3)).astype(np.float32)


def point(label, threshold):
    return OperatingPoint(
        label=label, threshold=threshold, rule="r", sensitivity=1, specificity=1, positives=1, negatives=1
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_they_equal_scipy(temperature):
    special = pytest.importorskip("scipy.special")
    z = LOGITS.astype(np.float64) / temperature
    multiclass = Task(kind="multiclass", labels=("a", "b", "c"), temperature=temperature)
    multilabel = Task(kind="multilabel", labels=("a", "b", "c"), temperature=temperature)
    binary = Task(kind="binary", labels=("a", "b"), temperature=temperature)
    np.testing.assert_allclose(probabilities(LOGITS, multiclass), special.softmax(z, axis=1), rtol=1e-12)
    np.testing.assert_allclose(probabilities(LOGITS, multilabel), special.expit(z), rtol=1e-12)
    expected = special.expit(z[:, 1:2] - z[:, :1])
    np.testing.assert_allclose(probabilities(LOGITS[:, :2], binary), expected, rtol=1e-9)


def test_extreme_logits_do_not_overflow():
    extreme = np.array([[-1e4, 1e4], [1e4, -1e4]], np.float32)
    assert probabilities(extreme, Task(kind="binary", labels=("a", "b"))).tolist() == [[1.0], [0.0]]
    assert probabilities(extreme, Task(kind="multilabel", labels=("a", "b"))).tolist() == [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize("shape", [(3,), (1, 2), (1, 3, 1)])
def test_logits_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"needs \[n, 3\]"):
        probabilities(np.zeros(shape), Task(kind="multiclass", labels=("a", "b", "c")))


def test_the_threshold_itself_is_a_call():
    task = Task(kind="binary", labels=("a", "b"), operating_points=(point("b", 0.3),))
    assert decisions(np.array([[0.3], [0.2999]]), task).tolist() == [[1], [0]]


def test_without_operating_points():
    scores = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    assert decisions(scores, Task(kind="multiclass", labels=("a", "b", "c"))).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert decisions(scores, Task(kind="multilabel", labels=("a", "b", "c"))).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert decisions(scores[:, :1], Task(kind="binary", labels=("a", "b"))).tolist() == [[0], [1]]


def test_a_pointed_class_is_called_at_its_threshold_the_others_by_argmax():
    task = Task(kind="multiclass", labels=("a", "b", "c"), operating_points=(point("c", 0.25),))
    assert decisions(np.array([[0.2, 0.5, 0.3]]), task).tolist() == [[0, 1, 1]]


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 9e-4, 1001.0, 1e300, float("inf"), float("nan"), -1.0])
def test_a_temperature_out_of_range_is_no_temperature(temperature):
    with pytest.raises(InputError, match=r"it must be 0\.001 to 1000"):
        Task(kind="binary", labels=("a", "b"), temperature=temperature)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_logits_without_a_probability_have_none(kind):
    task = Task(kind=kind, labels=("a", "b"), temperature=1e-3)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(Refused, match="not finite"):
            probabilities(np.array([[0.0, bad]]), task)
    if kind != "multilabel":  # infinity over infinity; a sigmoid is 1 and 0
        with pytest.raises(Refused, match="not a number"):
            probabilities(np.array([[1e308, 1.5e308]]), task)
    assert np.isfinite(probabilities(np.array([[-3e38, 3e38]], np.float32), task)).all()


@pytest.mark.parametrize("score", [np.nan, np.inf, -0.1, 1.1])
def test_a_score_that_is_no_probability_is_never_called_or_not(score):
    task = Task(kind="multilabel", labels=("a", "b"))
    with pytest.raises(Refused, match="not a number in"):
        decisions(np.array([[0.5, 0.5], [0.2, score]]), task)
