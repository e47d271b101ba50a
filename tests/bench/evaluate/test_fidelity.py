"""Fidelity: agreement by patient, and the limits a policy may set."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from medfm_compress.bench.evaluate.fidelity import check_fidelity, fidelity
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.policy import FidelityLimits
from medfm_compress.runtime.task import Task

MakeEvaluation = Callable[..., Evaluation]
TASK = Task(kind="multilabel", labels=("opacity",))


def flipped(evaluation: Evaluation, rows: list[int]) -> Evaluation:
    decisions = evaluation.decisions.copy()
    decisions[rows] = 1 - decisions[rows]
    return msgspec.structs.replace(evaluation, name="int8", decisions=decisions)


def test_agreement_counts_patients(make_evaluation: MakeEvaluation) -> None:
    teacher = make_evaluation(cases=300)
    teacher = msgspec.structs.replace(teacher, clusters=tuple(f"p{number // 3}" for number in range(300)))
    measured = fidelity(teacher, flipped(teacher, [0, 1, 30]), TASK)
    assert (measured.flipped_cases, measured.cases) == (3, 300)
    low, high = proportion_confint(98, 100, method="wilson")
    assert measured.agreement.estimate == 0.98
    assert (measured.agreement.low, measured.agreement.high) == pytest.approx((low, high), abs=1e-12)


def test_the_error_is_that_of_the_logits(make_evaluation: MakeEvaluation) -> None:
    teacher = make_evaluation()
    moved = msgspec.structs.replace(teacher, name="int8", logits=1.1 * teacher.logits)
    z = teacher.logits
    expected = 0.1 * np.linalg.norm(z) / np.linalg.norm(z - z.mean(axis=0))
    assert fidelity(teacher, moved, TASK).relative_logit_error == pytest.approx(expected)


def test_limits(make_evaluation: MakeEvaluation) -> None:
    teacher = make_evaluation(cases=300)
    near = fidelity(teacher, flipped(teacher, [0, 1, 30]), TASK)
    limits = [0.9, 0.99, 0.999]
    outcomes = [check_fidelity(FidelityLimits(min_agreement=limit), near)[0].outcome for limit in limits]
    assert outcomes == ["pass", "inconclusive", "fail"]
    assert check_fidelity(FidelityLimits(), near) == ()
    both = FidelityLimits(max_relative_logit_error=0.01, min_agreement=0.5)
    assert [check.outcome for check in check_fidelity(both, near)] == ["pass", "pass"]
    assert [check.outcome for check in check_fidelity(both, None)] == ["inconclusive"] * 2
