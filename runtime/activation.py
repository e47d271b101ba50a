"""From logits to calibrated probabilities to called findings.

    binary      p = softmax(z / T)[1]        multiclass  p = softmax(z / T)        multilabel  p = 1 / (1 + exp(-z / T))

with T the task's temperature (Guo et al., On Calibration of Modern Neural Networks, 2017).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.runtime.errors import InputError, Refused
from medfm_compress.runtime.task import Task

DEFAULT_THRESHOLD = 0.5


def probabilities(logits: NDArray[Any], task: Task) -> NDArray[np.float64]:
    """Calibrated probabilities ``[n, findings]``, float64 in [0, 1], of ``logits`` ``[n, labels]``.

    Raises:
        InputError: the logits have another number of columns than the task has labels.
        Refused: a logit is not finite, or so large that its probability is not defined.
    """
    scaled = np.asarray(logits, dtype=np.float64)
    if scaled.ndim != 2 or scaled.shape[1] != len(task.labels):
        raise InputError(f"logits have shape {scaled.shape}; the task needs [n, {len(task.labels)}]")
    if not np.isfinite(scaled).all():
        raise Refused("a logit is not finite; no result is given")
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused
        scores = _activated(scaled / task.temperature, task)
    check_probabilities(scores)
    return scores


def _activated(scaled: NDArray[np.float64], task: Task) -> NDArray[np.float64]:
    """Sigmoid or softmax ``[n, findings]`` of ``[n, labels]``; NaN where it is not defined."""
    if task.independent:
        return np.exp(-np.logaddexp(0.0, -scaled))
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    softmax: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return softmax[:, 1:] if task.kind == "binary" else softmax


def check_probabilities(scores: NDArray[np.float64]) -> None:
    """Raise `Refused` unless every score is a number in [0, 1]: NaN is below any threshold, yet no "not found"."""
    if not ((scores >= 0) & (scores <= 1)).all():
        raise Refused("a probability is not a number in [0, 1]; no result is given")


def decisions(scores: NDArray[Any], task: Task) -> NDArray[np.int64]:
    """Called (1) or not (0), int64 ``[n, findings]``, for probabilities ``scores`` of the same shape.

    A finding with an operating point is called where its score is >= the threshold. Without one, a class of a
    multiclass task is called where it is the most probable, any other finding at 0.5.

    Raises:
        Refused: a score is not a number in [0, 1].
    """
    scores = np.asarray(scores, dtype=np.float64)
    check_probabilities(scores)
    thresholds = {point.label: point.threshold for point in task.operating_points}
    called = scores >= np.array([thresholds.get(finding, DEFAULT_THRESHOLD) for finding in task.findings])
    if task.kind == "multiclass":
        most = np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]
        pointed = np.array([finding in thresholds for finding in task.findings])
        called = np.where(pointed, called, most)
    return called.astype(np.int64)
