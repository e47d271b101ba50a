"""Thresholds chosen on validation cases."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from sklearn.metrics import roc_curve

from medfm_compress.bench.evaluate.operating_points import choose_operating_points, follow_operating_point, held
from medfm_compress.bench.stats.wilson import wilson
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import OperatingPoint

MakeEvaluation = Callable[..., Evaluation]
RULES = ("youden", "sensitivity>=0.95", "specificity>=0.90")


def with_scores(evaluation: Evaluation, scores: list[float], truth: list[int]) -> Evaluation:
    columns = np.array(scores)[:, None], np.array(truth)[:, None]
    count = len(scores)
    return msgspec.structs.replace(
        evaluation,
        images=evaluation.images[:count],
        clusters=evaluation.clusters[:count],
        logits=columns[0],
        scores=columns[0],
        truth=columns[1],
        decisions=columns[1],
        subgroups={},
    )


@pytest.mark.parametrize("rule", RULES)
def test_the_stated_rates_are_those_at_the_threshold(make_evaluation: MakeEvaluation, rule: str) -> None:
    evaluation = make_evaluation(findings=("opacity", "nodule"))
    for point, scores, truth in zip(
        choose_operating_points(evaluation, rule=rule), evaluation.scores.T, evaluation.truth.T, strict=True
    ):
        called = scores >= point.threshold
        assert point.sensitivity == pytest.approx(called[truth == 1].mean())
        assert point.specificity == pytest.approx((~called)[truth == 0].mean())
        assert (point.positives, point.negatives) == (truth.sum(), (1 - truth).sum())
        assert point.rule == rule


def test_the_rules_pick_the_best_point_of_sklearns_curve(make_evaluation: MakeEvaluation) -> None:
    evaluation = make_evaluation()
    fpr, tpr, _ = roc_curve(evaluation.truth[:, 0], evaluation.scores[:, 0], drop_intermediate=False)
    youden, sensitive, specific = (choose_operating_points(evaluation, rule=rule)[0] for rule in RULES)
    assert youden.sensitivity + youden.specificity - 1 == pytest.approx((tpr - fpr).max())
    assert sensitive.specificity == pytest.approx(1 - fpr[tpr >= 0.95].min())
    assert specific.sensitivity == pytest.approx(tpr[1 - fpr >= 0.90].max())


def test_the_threshold_stands_midway(make_evaluation: MakeEvaluation) -> None:
    evaluation = with_scores(make_evaluation(), [0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1])
    assert choose_operating_points(evaluation, rule="youden")[0].threshold == pytest.approx(0.4)


def test_neighbouring_doubles_and_certain_scores_are_still_separated(make_evaluation: MakeEvaluation) -> None:
    above = float(np.nextafter(0.5, 1))
    evaluation = with_scores(make_evaluation(), [0.5, 0.5, above, 1.0], [0, 0, 1, 1])
    point = choose_operating_points(evaluation, rule="youden")[0]
    assert (point.sensitivity, point.specificity) == (1, 1)
    saturated = with_scores(make_evaluation(), [1.0, 1.0, 1.0], [0, 1, 1])
    with pytest.raises(InputError, match="every case scores 1"):
        choose_operating_points(saturated, rule="specificity>=0.90")


@pytest.mark.parametrize("value", [0, 1])
def test_a_finding_with_one_class_is_refused(make_evaluation: MakeEvaluation, value: int) -> None:
    evaluation = with_scores(make_evaluation(), [0.1, 0.9], [value, value])
    with pytest.raises(InputError, match="validation split that holds them"):
        choose_operating_points(evaluation, rule="youden")


@pytest.mark.parametrize(
    "rule", ["", "f1", "sensitivity>0.9", "sensitivity>=1.5", "specificity>=0.0", "sensitivity>=0.\u0669"]
)
def test_an_unknown_rule_is_refused(make_evaluation: MakeEvaluation, rule: str) -> None:
    with pytest.raises(InputError, match="is unknown; write youden"):
        choose_operating_points(make_evaluation(), rule=rule)


def at_its_point(evaluation: Evaluation) -> tuple[OperatingPoint, Evaluation]:
    """A point chosen on ``evaluation``, and the evaluation as decided there."""
    (point,) = choose_operating_points(evaluation, rule="sensitivity>=0.95")
    decided = (evaluation.scores >= point.threshold).astype(np.int64)
    return point, msgspec.structs.replace(evaluation, decisions=decided)


def test_a_point_holds_on_its_own_cases_what_it_promised(make_evaluation: MakeEvaluation) -> None:
    point, evaluation = at_its_point(make_evaluation())
    rates = held(point, evaluation)
    assert rates.promised is point
    assert rates.sensitivity == wilson(round(point.sensitivity * point.positives), point.positives)
    assert rates.specificity == wilson(round(point.specificity * point.negatives), point.negatives)


def test_several_images_of_a_patient_widen_what_it_holds(make_evaluation: MakeEvaluation) -> None:
    point, evaluation = at_its_point(make_evaluation())
    rows = np.repeat(np.arange(len(evaluation.images)), 4)
    columns = {name: getattr(evaluation, name)[rows] for name in ("logits", "scores", "truth", "decisions")}
    copied = msgspec.structs.replace(
        evaluation,
        **columns,
        images=tuple(f"{number}.png" for number in range(len(rows))),
        clusters=tuple(evaluation.clusters[row] for row in rows),
        subgroups={},
    )
    alone, several = held(point, evaluation), held(point, copied)
    for once, four in ((alone.sensitivity, several.sensitivity), (alone.specificity, several.specificity)):
        assert once and four
        assert (four.estimate, four.method) == (pytest.approx(once.estimate), "Wilson, clustered by patient")
        assert (four.low, four.high) == pytest.approx((once.low, once.high), abs=0.01)


def test_without_a_case_of_one_class_that_rate_is_not_known(make_evaluation: MakeEvaluation) -> None:
    point, evaluation = at_its_point(make_evaluation())
    healthy = with_scores(evaluation, [0.0, 1.0], [0, 0])
    rates = held(point, msgspec.structs.replace(healthy, decisions=np.array([[0], [1]])))
    assert rates.sensitivity is None
    assert rates.specificity == wilson(1, 2)


def test_a_point_of_another_finding_or_threshold_is_refused(make_evaluation: MakeEvaluation) -> None:
    point, evaluation = at_its_point(make_evaluation())
    with pytest.raises(InputError, match="not of 'nodule'"):
        held(msgspec.structs.replace(point, label="nodule"), evaluation)
    with pytest.raises(InputError, match=r"did not decide 'opacity' at 0\.99"):
        held(msgspec.structs.replace(point, threshold=0.99), evaluation)


def test_another_form_of_the_network_calls_as_many_cases_at_youdens_threshold() -> None:
    truth = np.array([0, 0, 1, 0, 1, 1])
    point = OperatingPoint(
        label="opacity", threshold=0.5, rule="youden", sensitivity=1.0, specificity=1.0, positives=3, negatives=3
    )
    same = np.array([0.1, 0.2, 0.55, 0.4, 0.7, 0.9])
    assert follow_operating_point(point, same, truth, called=3).threshold == 0.5
    lower = same - 0.1
    moved = follow_operating_point(point, lower, truth, called=3)
    assert moved.threshold == pytest.approx(0.4)
    assert (moved.sensitivity, moved.specificity) == (1.0, 1.0)
    assert follow_operating_point(point, lower, truth, called=0).threshold > 0.8


def test_equal_scores_are_called_together_and_the_more_sensitive_way_is_taken() -> None:
    truth = np.array([0, 1, 1, 1])
    point = OperatingPoint(
        label="opacity", threshold=0.6, rule="youden", sensitivity=1.0, specificity=1.0, positives=3, negatives=1
    )
    tied = np.array([0.1, 0.5, 0.5, 0.5])  # 0, 3 or 4 may be called
    followed = follow_operating_point(point, tied, truth, called=2).threshold
    assert 0.1 < followed <= 0.5 and (tied >= followed).sum() == 3


def test_a_threshold_moves_no_further_than_the_scores_did() -> None:
    truth = np.array([0, 0, 1, 1])
    point = OperatingPoint(
        label="opacity", threshold=0.5, rule="youden", sensitivity=1.0, specificity=1.0, positives=2, negatives=2
    )
    gap = follow_operating_point(point, np.array([0.1, 0.51, 0.9, 0.95]), truth, called=2).threshold
    assert gap == pytest.approx(0.52)
    all_called = follow_operating_point(point, np.array([0.495, 0.6, 0.9, 0.95]), truth, called=4).threshold
    assert all_called == pytest.approx(0.49)
    none_called = follow_operating_point(point, np.array([0.1, 0.2, 0.3, 0.505]), truth, called=0).threshold
    assert none_called == pytest.approx(0.51)


def test_a_threshold_of_zero_stays_and_a_score_at_the_threshold_is_passed() -> None:
    truth = np.array([0, 1, 1])
    zero = OperatingPoint(
        label="opacity", threshold=0.0, rule="youden", sensitivity=1.0, specificity=0.0, positives=2, negatives=1
    )
    assert follow_operating_point(zero, np.array([0.0, 0.5, 0.6]), truth, called=3).threshold == 0.0
    half = msgspec.structs.replace(zero, threshold=0.5)
    passed = follow_operating_point(half, np.array([0.1, 0.5, 0.9]), truth, called=1).threshold
    assert 0.5 < passed < 0.5 + 1e-9


@pytest.mark.parametrize("rule", [*RULES[1:], "false-alarm-rate<=0.05"])
def test_a_rule_that_promises_a_rate_is_applied_again(make_evaluation: MakeEvaluation, rule: str) -> None:
    evaluation = make_evaluation()
    (point,) = choose_operating_points(evaluation, rule=rule)
    scores, truth = evaluation.scores[:, 0] * 0.5, evaluation.truth[:, 0]
    halved = msgspec.structs.replace(evaluation, scores=scores[:, None])
    (expected,) = choose_operating_points(halved, rule=rule)
    assert follow_operating_point(point, scores, truth, called=0) == expected
