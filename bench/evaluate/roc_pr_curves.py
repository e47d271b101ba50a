"""ROC and precision-recall curves, thinned for drawing.

    sensitivity(t) = TP(t) / P      1 - specificity(t) = FP(t) / N      precision(t) = TP(t) / (TP(t) + FP(t))

at every threshold t that occurs, a case being called where its score is >= t (Fawcett, An introduction to ROC
analysis, 2006; Davis and Goadrich, 2006, for why precision-recall points must not be joined by straight lines).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_POINTS = 400
Floats = NDArray[np.float64]


class Curve(NamedTuple):
    """Points of one curve, in the order of falling thresholds; ``x`` and ``y`` in [0, 1]."""

    x: Floats
    y: Floats


def roc(truth: NDArray[np.int64], scores: Floats) -> Curve:
    """ROC curve from (0, 0) to (1, 1); ``truth`` 0/1 ``[n]``, ``scores`` ``[n]``. Empty with one class only."""
    true, false = _counts(truth, scores)
    if not true[-1] or not false[-1]:
        return Curve(np.zeros(0), np.zeros(0))
    return _thinned(Curve(false / false[-1], true / true[-1]))


def precision_recall(truth: NDArray[np.int64], scores: Floats) -> Curve:
    """Precision over recall as steps, as average precision sums them. Empty without a positive case."""
    true, false = _counts(truth, scores)
    if not true[-1]:
        return Curve(np.zeros(0), np.zeros(0))
    recall, precision = true[1:] / true[-1], true[1:] / (true[1:] + false[1:])
    curve = _thinned(Curve(recall, precision))
    # A step: precision holds back to the recall before it.
    return Curve(np.repeat(np.concatenate([[0.0], curve.x]), 2)[1:-1], np.repeat(curve.y, 2))


def rates(truth: NDArray[np.int64], called: NDArray[np.int64]) -> tuple[float, float, float]:
    """Sensitivity, 1 − specificity and precision of decisions; 0 where a rate has no cases."""
    true, false = int((called & truth).sum()), int((called & (1 - truth)).sum())
    positives, negatives = int(truth.sum()), int((1 - truth).sum())
    return true / max(positives, 1), false / max(negatives, 1), true / max(true + false, 1)


def _counts(truth: NDArray[np.int64], scores: Floats) -> tuple[Floats, Floats]:
    """True and false positives at "nothing called" and then at each distinct threshold, falling."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    true = np.cumsum(truth[order])[last].astype(np.float64)
    return np.append(0.0, true), np.append(0.0, last + 1 - true)


def _thinned(curve: Curve) -> Curve:
    """At most ``MAX_POINTS`` points, first and last kept."""
    if len(curve.x) <= MAX_POINTS:
        return curve
    keep = np.unique(np.linspace(0, len(curve.x) - 1, MAX_POINTS).astype(np.int64))
    return Curve(curve.x[keep], curve.y[keep])
