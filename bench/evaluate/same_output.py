"""Whether two models are one network in two engines, which differ by rounding alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medfm_compress.bench.evaluate.confusion_matrix import are_labels_exclusive
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.interval import Interval

SAME_OUTPUT = 1e-4
SAME_LOGIT = 1e-3  # of the teacher's spread over the cases; engines differ by 1e-5


def same_output(teacher: Evaluation, bundle: Evaluation, findings: slice) -> bool:
    """Whether two models are one network in two engines: equal decisions, probabilities and logits but for rounding.

    Logits, because probabilities near 0 or 1 differ by nothing while they rank every patient otherwise. Each case's
    mean logit, which a softmax ignores, is taken off where the labels exclude each other.
    """
    if not (teacher.decisions[:, findings] == bundle.decisions[:, findings]).all():
        return False
    if np.abs(teacher.scores[:, findings] - bundle.scores[:, findings]).max() > SAME_OUTPUT:
        return False
    first, second = (_comparable(evaluation, findings) for evaluation in (teacher, bundle))
    spread = float(np.sqrt(((first - first.mean(axis=0)) ** 2).mean()))
    return float(np.abs(second - first).max()) <= SAME_LOGIT * spread


def _comparable(evaluation: Evaluation, findings: slice) -> NDArray[np.float64]:
    """Logits ``[cases, outputs]`` without what does not matter to the probabilities of ``findings``."""
    logits = evaluation.logits
    independent = logits.shape[1] == len(evaluation.findings) and not are_labels_exclusive(evaluation)
    return logits[:, findings] if independent else logits - logits.mean(axis=1, keepdims=True)


def no_difference(level: float) -> Interval:
    """Of two engines that compute one network: 0, with no width."""
    return Interval(estimate=0.0, low=0.0, high=0.0, level=level, method="identical outputs", standard_error=0.0)
