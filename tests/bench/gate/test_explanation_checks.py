"""Limits on the agreement of heat maps: passed, broken, undecided, never recorded, of something else."""

from __future__ import annotations

import importlib

import msgspec
import pytest

from medfm_compress.bench.evaluate.attribution_agreement import ExplanationAgreement
from medfm_compress.bench.evaluate.kinds import check_policy
from medfm_compress.bench.gate.decision import Decision, policy_keys
from medfm_compress.bench.gate.explanation_checks import check_explanations, median_agreement
from medfm_compress.bench.gate.gate import judge_evidence, recompute
from medfm_compress.bench.gate.policy_file import parse_policy
from medfm_compress.bench.stats.quantile_intervals import quantile_interval
from medfm_compress.bench.types.policy import ExplanationLimits
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

LIMITS = ExplanationLimits(min_rank_correlation=0.9)


def row(values: list[float], **changes: object) -> ExplanationAgreement:
    made = ExplanationAgreement(
        variant="int8",
        finding="opacity",
        method="class activation / class activation",
        rank_correlation=tuple(values),
        overlap=(0.5,) * len(values),
        cases=tuple(range(len(values))),
    )
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([0.95] * 20, "pass"),
        ([0.5] * 20, "fail"),
        ([0.85] * 10 + [0.95] * 10, "inconclusive"),
        ([0.99] * 5, "inconclusive"),  # no interval of a median of five
        ([0.99] * 14 + [0.2] * 2, "pass"),  # of two of sixteen a median knows nothing
    ],
)
def test_the_median_is_held_against_the_limit_by_its_interval(values: list[float], outcome: str) -> None:
    (check,) = check_explanations(LIMITS, "int8", [row(values)], range(len(values)), 0.025)
    assert check.outcome == outcome and check.name == "rank correlation of heat maps"


def test_the_cases_that_agree_least_are_named_as_the_report_numbers_them() -> None:
    values = [0.95] * 18 + [0.1, 0.3]
    (check,) = check_explanations(LIMITS, "int8", [row(values, cases=tuple(range(10, 30)))], range(40), 0.025)
    assert check.outcome == "pass" and "lowest: case 29 (0.10), case 30 (0.30), case 11 (0.95)" in check.reason
    assert "class activation / class activation" in check.reason


def test_cases_of_one_patient_count_once() -> None:
    values = [0.8, 1.0] * 10
    assert median_agreement(row(values), values, [0] * 20, 0.025) is None
    pairs = median_agreement(row(values), values, [number // 2 for number in range(20)], 0.025)
    assert pairs == quantile_interval([0.9] * 10, 0.5, 0.95)


@pytest.mark.parametrize(
    "rows", [[], [row([0.95] * 20, variant="fp32")], [row([0.95] * 20, cases=tuple(range(5, 25)))]]
)
def test_without_an_agreement_of_this_variant_on_these_cases_nothing_is_judged(
    rows: list[ExplanationAgreement],
) -> None:
    limits = ExplanationLimits(min_rank_correlation=0.9, min_overlap=0.2)
    checks = check_explanations(limits, "int8", rows, range(20), 0.025)
    assert [check.outcome for check in checks] == ["inconclusive"] * 2
    assert all("medfm-compress explain" in check.reason for check in checks)
    assert check_explanations(ExplanationLimits(), "int8", rows, range(20), 0.025) == ()


def test_a_report_is_judged_by_what_it_recorded() -> None:
    report = importlib.import_module("full_report").make_report()
    policy = msgspec.structs.replace(
        report.policy, explanations=ExplanationLimits(min_rank_correlation=0.9, min_overlap=0.4)
    )
    variants = report.variants

    def outcomes(*rows: ExplanationAgreement) -> dict[str, set[str]]:
        seen = recompute(msgspec.structs.replace(report, explanations=rows), policy)
        verdict = judge_evidence(seen, policy, policy_sha256="p" * 64)
        keys = policy_keys(Decision(verdict, seen, policy, report, None))
        found = {
            judged.variant: {c.outcome for c in judged.checks if keys.get(c.name, ("",))[0] == "explanations"}
            for judged in verdict.variants
        }
        assert all(judged.outcome != "pass" for judged in verdict.variants if found[judged.variant] != {"pass"})
        return found

    assert outcomes() == {name: {"inconclusive"} for name in variants}
    good = [row([0.95] * 20, variant=name) for name in variants]
    assert outcomes(*good) == {name: {"pass"} for name in variants}
    bad = msgspec.structs.replace(good[0], rank_correlation=(0.5,) * 20)
    assert outcomes(bad, *good[1:])[variants[0]] == {"pass", "fail"}


def test_limits_that_can_never_or_always_hold_are_refused() -> None:
    policy = b"non_inferiority: [{metric: auroc, margin: 0.1}]\nexplanations: "
    assert parse_policy(policy + b"{min_rank_correlation: 0.9}").policy.explanations.min_rank_correlation == 0.9
    for wrong in (b"{min_rank_correlation: 1.1}", b"{min_overlap: 0.0}", b"{min_rank_correlation: -0.2}"):
        with pytest.raises(InputError, match="explanations"):
            parse_policy(policy + wrong)
    with pytest.raises(InputError, match="has no key 'min_rho'"):
        parse_policy(policy + b"{min_rho: 0.9}")


def test_a_task_that_explain_does_not_explain_cannot_be_asked() -> None:
    policy = parse_policy(b"non_inferiority: [{metric: dice, margin: 0.1}]\nexplanations: {min_overlap: 0.5}").policy
    with pytest.raises(InputError, match="leave 'explanations' out"):
        check_policy(policy, Task(kind="segmentation", labels=("lesion",)))
