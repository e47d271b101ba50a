"""Groups of patients: how columns divide the cases, and what the gate makes of a group."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.evaluate.subgroups import divide, restrict
from medfm_compress.bench.gate.gate import gather, judge_evidence
from medfm_compress.bench.types.evaluation import Evaluation
from medfm_compress.bench.types.policy import NonInferiority, Policy, SubgroupRule
from medfm_compress.bench.types.verdict import Verdict
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

MakeEvaluation = Callable[..., Evaluation]
TASK = Task(kind="multilabel", labels=("opacity",))
BY_AGE = SubgroupRule(column="age", cuts=(50, 70))
EVERYONE = NonInferiority(metric="auroc", margin=0.05)
OLD_AND_YOUNG = NonInferiority(metric="auroc", margin=0.15, subgroup="age")
POLICY = Policy(non_inferiority=(EVERYONE,), subgroups=(BY_AGE,))


def with_columns(evaluation: Evaluation, **columns: list[str]) -> Evaluation:
    return msgspec.structs.replace(evaluation, subgroups={name: tuple(values) for name, values in columns.items()})


def ages(cases: int) -> list[str]:
    return [str(30 + 5 * (number % 11)) for number in range(cases)]


def verdict_on(teacher: Evaluation, variant: Evaluation, policy: Policy) -> Verdict:
    return judge_evidence(gather(teacher, (variant,), policy, TASK), policy, policy_sha256="p" * 64)


def test_cuts_make_half_open_ranges_and_text_is_not_recorded(make_evaluation: MakeEvaluation) -> None:
    values = ["49.9", "50", "60-69", "70", "unknown", "", "nan", "inf", "80-89"]
    evaluation = restrict(make_evaluation(), np.arange(300) < 9)
    division = divide(with_columns(evaluation, age=values), BY_AGE, POLICY)
    assert [(group.name, np.flatnonzero(group.rows).tolist()) for group in division.groups] == [
        ("age < 50", [0]),
        ("50 <= age < 70", [1, 2]),
        ("age >= 70", [3, 8]),
    ]
    assert division.unrecorded == 4


def test_ranges_without_an_end_are_in_the_group_that_holds_all_of_them(make_evaluation: MakeEvaluation) -> None:
    values = [
        "90+",
        "89 +",
        "\u226590",
        ">89",
        "> 89",
        ">= 70",
        "90 and older",
        "<50",
        "<=49",
        "under 1",
        "50\u201369",
        "+",
    ]
    evaluation = restrict(make_evaluation(), np.arange(300) < len(values))
    division = divide(with_columns(evaluation, age=values), BY_AGE, POLICY)
    assert [np.flatnonzero(group.rows).tolist() for group in division.groups] == [
        [7, 8, 9],
        [10],
        [0, 1, 2, 3, 4, 5, 6],
    ]
    assert division.unrecorded == 1


def test_every_value_is_a_group_without_cuts(make_evaluation: MakeEvaluation) -> None:
    evaluation = restrict(make_evaluation(), np.arange(300) < 4)
    division = divide(
        with_columns(evaluation, sex=["male", "female", "", "unknown"]), SubgroupRule(column="sex"), POLICY
    )
    assert [group.name for group in division.groups] == ["sex = female", "sex = male", "sex = unknown"]
    assert division.unrecorded == 1


@pytest.mark.parametrize(
    ("values", "rule", "complaint"),
    [
        ([""] * 300, SubgroupRule(column="age"), "empty for all 300"),
        (["unknown"] * 300, BY_AGE, "no number for all 300"),
        ([str(number) for number in range(300)], SubgroupRule(column="age"), "300 values"),
        (
            ["40-49"] * 299 + ["70-79"],
            SubgroupRule(column="age", cuts=(75,)),
            "inside the recorded range '70-79'",
        ),
        (["40-49"] * 299 + ["90+"], SubgroupRule(column="age", cuts=(95,)), "inside the recorded range '90\\+'"),
        (["40-49"] * 299 + [">89"], SubgroupRule(column="age", cuts=(90,)), "inside the recorded range '>89'"),
        (["40-49"] * 299 + ["<=5"], SubgroupRule(column="age", cuts=(5,)), "inside the recorded range '<=5'"),
        (["1"] * 300, SubgroupRule(column="site"), "no column of the study or report; it has age"),
    ],
)
def test_a_column_that_cannot_divide_is_refused(
    make_evaluation: MakeEvaluation, values: list[str], rule: SubgroupRule, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        divide(with_columns(make_evaluation(), age=values), rule, POLICY)


def test_restricting_takes_the_same_rows_of_everything(make_evaluation: MakeEvaluation) -> None:
    evaluation = with_columns(make_evaluation(), age=ages(300))
    rows = divide(evaluation, BY_AGE, POLICY).groups[2].rows
    part = restrict(evaluation, rows)
    numbers = np.flatnonzero(rows)
    assert part.images == tuple(evaluation.images[number] for number in numbers)
    assert part.clusters == tuple(evaluation.clusters[number] for number in numbers)
    np.testing.assert_array_equal(part.scores, evaluation.scores[rows])
    assert set(part.subgroups["age"]) == {"70", "75", "80"}


def test_a_model_damaged_for_one_group_fails_and_the_group_is_named(make_evaluation: MakeEvaluation) -> None:
    teacher = with_columns(make_evaluation(cases=900), age=ages(900))
    old = divide(teacher, BY_AGE, POLICY).groups[2].rows
    scores = teacher.scores.copy()
    scores[old] = np.random.default_rng(1).permutation(scores[old])
    damaged = msgspec.structs.replace(teacher, name="int8", scores=scores)
    policy = Policy(non_inferiority=(OLD_AND_YOUNG,), subgroups=(BY_AGE,), resamples=1000)
    verdict = verdict_on(teacher, damaged, policy)
    outcomes = {check.name: check.outcome for check in verdict.variants[0].checks}
    assert outcomes == {
        "auroc of opacity, age < 50": "pass",
        "auroc of opacity, 50 <= age < 70": "pass",
        "auroc of opacity, age >= 70": "fail",
    }
    assert verdict.outcome == "fail"


def test_a_group_too_small_is_inconclusive_or_named_but_never_dropped(make_evaluation: MakeEvaluation) -> None:
    values = ["80" if number < 6 else "40" for number in range(300)]
    teacher = with_columns(make_evaluation(), age=values)
    same = msgspec.structs.replace(teacher, name="int8")
    rule = SubgroupRule(column="age", cuts=(50, 70, 90))
    policy = Policy(non_inferiority=(OLD_AND_YOUNG,), subgroups=(rule,), resamples=1000)
    verdict = verdict_on(teacher, same, policy)
    reasons = {check.name: check.reason for check in verdict.variants[0].checks if check.outcome == "inconclusive"}
    assert "no case" in reasons["auroc of opacity, 50 <= age < 70"]
    assert "patients, the policy asks for" in reasons["auroc of opacity, 70 <= age < 90"]
    assert verdict.outcome == "inconclusive"
    named = msgspec.structs.replace(policy, subgroups=(msgspec.structs.replace(rule, when_too_few="named"),))
    waived = verdict_on(teacher, same, named)
    assert waived.outcome == "pass"
    assert [check.name for check in waived.variants[0].checks] == ["auroc of opacity, age < 50"]
    assert sum("not judged: auroc of opacity" in note for note in waived.notes) == 3


def test_where_every_requirement_is_waived_nothing_passes(make_evaluation: MakeEvaluation) -> None:
    teacher = with_columns(make_evaluation(), age=["80" if number < 6 else "" for number in range(300)])
    rule = SubgroupRule(column="age", cuts=(50, 70), when_too_few="named")
    policy = Policy(non_inferiority=(OLD_AND_YOUNG,), subgroups=(rule,), resamples=1000)
    verdict = verdict_on(teacher, msgspec.structs.replace(teacher, name="int8"), policy)
    assert verdict.outcome == "inconclusive"
    (check,) = verdict.variants[0].checks
    assert "no comparison was judged" in check.reason


def test_what_is_not_recorded_is_said(make_evaluation: MakeEvaluation) -> None:
    teacher = with_columns(make_evaluation(), age=["unknown"] * 20 + ["40"] * 280)
    policy = Policy(non_inferiority=(EVERYONE,), subgroups=(SubgroupRule(column="age", cuts=(50,)),), resamples=1000)
    verdict = verdict_on(teacher, msgspec.structs.replace(teacher, name="int8"), policy)
    assert verdict.notes == ("age is not recorded for 20 of 300 cases; they count among all cases and in no group",)


def test_an_error_that_rises_is_a_loss(make_evaluation: MakeEvaluation) -> None:
    teacher = make_evaluation(cases=1200)
    overconfident = msgspec.structs.replace(teacher, name="int8", scores=np.where(teacher.scores > 0.5, 1.0, 0.0))
    policy = Policy(non_inferiority=(NonInferiority(metric="brier", margin=0.01),), resamples=1000)
    assert verdict_on(teacher, overconfident, policy).outcome == "fail"
    better = verdict_on(msgspec.structs.replace(overconfident, name="teacher"), teacher, policy)
    assert better.outcome == "pass"


def test_a_policy_that_requires_an_undeclared_group_is_refused() -> None:
    with pytest.raises(InputError, match="none of the policy's subgroups"):
        Policy(non_inferiority=(OLD_AND_YOUNG,))
    with pytest.raises(InputError, match="must rise"):
        SubgroupRule(column="age", cuts=(70, 50))


def test_an_intersection_has_every_combination_of_the_groups_of_its_columns(make_evaluation: MakeEvaluation) -> None:
    rules = (SubgroupRule(column="sex"), SubgroupRule(column="age", cuts=(70,)), SubgroupRule(column="age*sex"))
    policy = Policy(
        non_inferiority=(NonInferiority(metric="auroc", margin=0.2, subgroup="age * sex"),), subgroups=rules
    )
    assert policy.requirement("auroc", "", "age × sex") is policy.non_inferiority[0]
    assert policy.study_columns == {"age", "sex"}
    columns = {"age": ["60", "80", "75", "", "50", "50"], "sex": ["f", "f", "m", "m", "", "f"]}
    evaluation = with_columns(restrict(make_evaluation(), np.arange(300) < 6), **columns)
    division = divide(evaluation, rules[2], policy)
    assert {group.name: np.flatnonzero(group.rows).tolist() for group in division.groups} == {
        "sex = f, age < 70": [0, 5],
        "sex = f, age >= 70": [1],
        "sex = m, age < 70": [],
        "sex = m, age >= 70": [2],
    }
    assert {group.column for group in division.groups} == {"age × sex"}
    assert division.unrecorded == 2


def test_a_loss_in_one_combination_only_is_seen(make_evaluation: MakeEvaluation) -> None:
    teacher = make_evaluation(cases=1200, separation=4.0)
    sexes, age = ["f", "m"] * 600, ["40", "40", "80", "80"] * 300
    hurt = np.array([s == "f" and a == "80" for s, a in zip(sexes, age, strict=True)])
    rng = np.random.default_rng(0)
    worse = np.where(hurt[:, None] & (rng.random((1200, 1)) < 0.8), rng.random((1200, 1)), teacher.scores)
    variant = msgspec.structs.replace(teacher, name="int8", scores=worse)
    rules = (SubgroupRule(column="sex"), SubgroupRule(column="age", cuts=(70,)), SubgroupRule(column="age × sex"))
    by = NonInferiority(metric="auroc", margin=0.2, subgroup="age × sex")
    pair = [with_columns(evaluation, sex=sexes, age=age) for evaluation in (teacher, variant)]
    verdict = verdict_on(*pair, Policy(non_inferiority=(EVERYONE, by), subgroups=rules))
    outcomes = {check.name: check.outcome for check in verdict.variants[0].checks}
    assert outcomes["auroc of opacity, sex = f, age >= 70"] == "fail"
    assert outcomes["auroc of opacity, sex = m, age < 70"] == "pass"


@pytest.mark.parametrize(
    "rules",
    [
        (SubgroupRule(column="age × sex"),),
        (SubgroupRule(column="sex"), SubgroupRule(column="age × sex")),
        (SubgroupRule(column="sex"), SubgroupRule(column="sex × sex")),
    ],
)
def test_an_intersection_of_columns_without_rules_is_refused(rules: tuple[SubgroupRule, ...]) -> None:
    with pytest.raises(InputError, match="one rule of its own"):
        Policy(non_inferiority=(EVERYONE,), subgroups=rules)
    with pytest.raises(InputError, match="give them to the rule"):
        SubgroupRule(column="age × sex", cuts=(1,))
