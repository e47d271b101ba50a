"""An evaluation whose scores or decisions were altered after the fact is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_report
from msgspec.structs import replace

from medfm_compress.bench.gate.consistent_scores import check_consistent
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

TASK = Task(kind="binary", labels=("normal", "opacity"))


@pytest.mark.parametrize("altered", ["nothing", "scores", "not a number", "decisions", "logits"])
def test_scores_and_decisions_must_follow_from_the_logits(altered: str) -> None:
    made = tiny_report.evaluation("int8", cases=40)
    scores, decided = made.scores.copy(), made.decisions.copy()
    if altered in ("scores", "not a number"):
        scores[3, 0] = 0.5 * scores[3, 0] if altered == "scores" else np.nan
    if altered == "decisions":
        decided[3, 0] = 1 - decided[3, 0]
    logits = made.logits[::-1] if altered == "logits" else made.logits
    evaluation = replace(made, scores=scores, decisions=decided, logits=logits)
    if altered == "nothing":
        check_consistent(evaluation, TASK)
        return
    with pytest.raises(InputError, match="the report contradicts itself: scores or decisions of 'int8'"):
        check_consistent(evaluation, TASK)
