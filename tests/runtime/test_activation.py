"""Logits to probabilities to calls."""

from __future__ import annotations

import numpy as np
import pytest

from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.errors import InputError
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
