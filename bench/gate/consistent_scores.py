"""Whether the scores and decisions of an evaluation are those of its logits: a report may have been altered since."""

from __future__ import annotations

import numpy as np

from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.runtime.activation import decisions, probabilities
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

_SAME_SCORE = 1e-6


def check_consistent(evaluation: Evaluation, task: Task) -> None:
    """Check ``evaluation`` against the temperature and operating points of ``task``.

    Raises:
        InputError: scores or decisions do not follow from the logits.
    """
    scores = probabilities(evaluation.logits, task)
    equal = np.abs(scores - evaluation.scores).max() <= _SAME_SCORE  # False for what is no number
    follows = _drawn_is_called(evaluation) if task.is_dense else (decisions(scores, task) == evaluation.decisions).all()
    if not equal or not follows:
        raise InputError(
            f"the report contradicts itself: scores or decisions of {evaluation.name!r} do not follow from its logits, "
            "temperature and operating points; bench the bundle again"
        )


def _drawn_is_called(evaluation: Evaluation) -> bool:
    """Whether nothing is made of structures that the label map is said not to show, and something where it is."""
    metrics, absent = evaluation.case_metrics, evaluation.decisions == 0
    if not metrics:
        return True
    overlaps = np.nan_to_num(metrics["dice"]) + np.nan_to_num(metrics["lesion_sensitivity"])
    made_up = metrics["false_positives_per_image"]
    invented = (evaluation.truth == 0) & ~absent & (made_up == 0)
    return not bool((absent & ((overlaps > 0) | (made_up > 0))).any() or invented.any())
