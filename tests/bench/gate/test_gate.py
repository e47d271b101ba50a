"""The gate's truth table, from evaluations and from single comparisons, and its JUnit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.gate.budget import check_budget
from medfm_compress.bench.gate.gate import Evidence, gather, judge_evidence, stored_verdicts
from medfm_compress.bench.gate.margin_checks import Population
from medfm_compress.bench.render.junit import render_junit, save_junit
from medfm_compress.bench.types.evaluation import Comparison, Evaluation
from medfm_compress.bench.types.interval import Interval
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.policy import Budget, NonInferiority, Policy
from medfm_compress.bench.types.verdict import Check, VariantVerdict, Verdict
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.task import Task

MakeEvaluation = Callable[..., Evaluation]
AUROC = NonInferiority(metric="auroc", margin=0.05)


def policy(**changes: object) -> Policy:
    return msgspec.structs.replace(Policy(non_inferiority=(AUROC,), resamples=1000), **changes)


def comparison(low: float = -0.01, *, p_worse: float = 1.0, **changes: object) -> Comparison:
    own = Interval(estimate=0.9, low=0.85, high=0.95)
    made = Comparison(
        metric="auroc",
        finding="opacity",
        variant="int8",
        teacher=own,
        bundle=own,
        difference=Interval(estimate=low + 0.01, low=low, high=low + 0.02),
        margin=0.05,
        p_worse=p_worse,
    )
    return msgspec.structs.replace(made, **changes)


def verdict_on(
    comparisons: tuple[Comparison, ...],
    rules: Policy | None = None,
    measurements: tuple[Measurement, ...] = (),
    shipped: tuple[str, ...] = ("int8",),
) -> Verdict:
    everyone = Population("", "", {"opacity": ""})
    evidence = Evidence(("opacity",), (everyone,), comparisons, (), measurements, (), "m" * 64, shipped)
    return judge_evidence(evidence, rules or policy(), policy_sha256="p" * 64)


def judge(teacher: Evaluation, variant: Evaluation, rules: Policy) -> Verdict:
    task = Task(kind="multilabel", labels=("opacity",))
    return judge_evidence(gather(teacher, (variant,), rules, task), rules, policy_sha256="p" * 64)


def measured(name: str = "int8", target: str = "openvino:cpu:int8:1", ms: float = 10.0, mb: float = 5.0) -> Measurement:
    return Measurement(
        name=name,
        target=target,
        session_ms=tuple(np.full(400, ms)),
        size_bytes=int(mb * 1e6),
        peak_rss_bytes=int(2e8),
    )


def in_rounds(measurement: Measurement) -> Measurement:
    return msgspec.structs.replace(measurement, calls_per_round=10)


TEACHER = measured("teacher", "torch:cpu:fp32:1", 100.0, 80.0)


@pytest.mark.parametrize(
    ("compared", "outcome"),
    [
        (comparison(-0.0499), "pass"),
        (comparison(-0.05), "inconclusive"),
        (comparison(-0.2, p_worse=0.024), "fail"),
        (comparison(-0.2, p_worse=0.026), "inconclusive"),
        (comparison(-0.2, p_worse=0.0, too_few="3 patients"), "inconclusive"),
        (comparison(float("nan")), "inconclusive"),
        (comparison(float("-inf")), "inconclusive"),
        (comparison(margin=0.01), "inconclusive"),
        (comparison(difference=Interval(estimate=0, low=-0.01, high=0.01, level=0.8)), "inconclusive"),
        (comparison(variant="other"), "inconclusive"),
        (comparison(finding="nodule"), "inconclusive"),
    ],
)
def test_one_comparison(compared: Comparison, outcome: str) -> None:
    assert verdict_on((compared,)).outcome == outcome


def test_not_significant_after_holm_is_inconclusive() -> None:
    # p = 0.02 alone is below 0.025; as the smallest of two it counts 0.04.
    rules = policy(non_inferiority=(AUROC, NonInferiority(metric="f1", margin=0.05)))
    worse = comparison(-0.2, p_worse=0.02)
    fine = comparison(metric="f1")
    assert verdict_on((worse,)).outcome == "fail"
    assert verdict_on((worse, fine), rules).outcome == "inconclusive"
    assert verdict_on((comparison(-0.2, p_worse=0.01), fine), rules).outcome == "fail"


def test_every_required_comparison_must_pass_at_alpha_without_correction() -> None:
    rules = policy(non_inferiority=(AUROC, NonInferiority(metric="f1", margin=0.05)))
    assert verdict_on((comparison(), comparison(metric="f1")), rules).outcome == "pass"
    assert verdict_on((comparison(), comparison(-0.06, metric="f1")), rules).outcome == "inconclusive"
    assert verdict_on((comparison(),), rules).outcome == "inconclusive"


@pytest.mark.parametrize("floor", ["teacher_floor", "bundle_floor"])
def test_floors_are_held_against_confidence_bounds(floor: str) -> None:
    # Both models' own intervals are 0.85 to 0.95.
    for value, outcome in ((0.85, "pass"), (0.86, "inconclusive"), (0.95, "inconclusive"), (0.96, "fail")):
        rules = policy(non_inferiority=(msgspec.structs.replace(AUROC, **{floor: value}),))
        assert verdict_on((comparison(),), rules).outcome == outcome
    rules = policy(non_inferiority=(msgspec.structs.replace(AUROC, **{floor: 0.95}),))
    assert verdict_on((comparison(too_few="3 patients"),), rules).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("low", "high", "outcome", "says"),
    [
        (-0.02, 0.01, "pass", "a drop so large is ruled out"),
        (-0.03, -0.01, "pass", "worse beyond doubt, by less than the margin"),
        (-0.07, 0.01, "inconclusive", "a drop so large is neither shown nor ruled out"),
        (-0.07, -0.01, "inconclusive", "worse beyond doubt, and a drop so large is not ruled out"),
    ],
)
def test_worse_is_said_whether_or_not_the_margin_is_excluded(low: float, high: float, outcome: str, says: str) -> None:
    difference = Interval(estimate=(low + high) / 2, low=low, high=high, standard_error=0.01)
    verdict = verdict_on((comparison(difference=difference),))
    assert verdict.outcome == outcome
    assert says in verdict.variants[0].checks[0].reason
    assert ("beyond doubt" in verdict.variants[0].checks[0].reason) == (high < 0)


def test_a_perfect_class_is_told_how_many_patients_would_do(make_evaluation: MakeEvaluation) -> None:
    # 1.000 against 1.000 in each of 200 ill patients: no drop of 0.01 is excluded, and 380 would exclude it.
    teacher = make_evaluation(cases=500, separation=30.0)
    variant = msgspec.structs.replace(teacher, name="int8", scores=teacher.scores * 0.9)
    ill = int(teacher.truth.sum())
    rules = policy(non_inferiority=(NonInferiority(metric="sensitivity", margin=0.01),))
    reason = judge(teacher, variant, rules).variants[0].checks[0].reason
    assert f"({ill} with the finding) cannot rule out a drop below" in reason
    needed = float(re.search(r"0.01 would take about ([\d,]+)", reason)[1].replace(",", ""))
    assert "of whom fewer count" not in reason  # each has one image
    # 3.84 · 0.99 / 0.01 = 380 ill patients, at the prevalence of the study.
    assert needed == pytest.approx(380 * 500 / ill, rel=0.03)
    pairs = tuple(f"p{number // 2}" for number in range(500))
    teacher, variant = (msgspec.structs.replace(model, clusters=pairs) for model in (teacher, variant))
    reason = judge(teacher, variant, rules).variants[0].checks[0].reason
    assert "with the finding), of whom fewer count since some have several images, cannot rule out a drop" in reason


def test_what_was_not_evaluated_and_what_is_undefined_are_told_apart() -> None:
    rules = policy(non_inferiority=(NonInferiority(metric="ppv", margin=0.05),))
    undefined = verdict_on((comparison(),), rules).variants[0].checks[0].reason
    assert undefined == "undefined: teacher or bundle calls no case"
    absent = verdict_on((comparison(),), rules, shipped=("int8", "fp16")).variants[1].checks[0].reason
    assert "this variant was not evaluated" in absent


@pytest.mark.parametrize(
    ("budget", "measurements", "outcome"),
    [
        (Budget(p50_ms=10.0), (measured(),), "pass"),
        (Budget(p50_ms=9.9), (measured(),), "fail"),
        (Budget(p50_ms=10.0), (), "inconclusive"),
        (Budget(p50_ms=10.0), (measured("fp32"),), "inconclusive"),
        (Budget(p50_ms=10.0), (msgspec.structs.replace(measured(), session_ms=()),), "inconclusive"),
        (Budget(p50_ms=10.0), (measured(ms=float("nan")),), "inconclusive"),
        (Budget(p99_ms=10.0), (measured(),), "pass"),
        (Budget(p99_ms=9.0), (measured(),), "fail"),
        (Budget(p99_ms=99.0), (msgspec.structs.replace(measured(), session_ms=(10.0,) * 99),), "inconclusive"),
        (Budget(size_bytes=5_000_000), (measured(),), "pass"),
        (Budget(size_bytes=4_999_999), (measured(),), "fail"),
        (Budget(size_bytes=5_000_000), (measured(mb=0),), "inconclusive"),
        (Budget(peak_rss_bytes=200_000_000), (measured(),), "pass"),
        (Budget(peak_rss_bytes=199_999_999), (measured(),), "fail"),
        (Budget(min_speedup=10.0), (in_rounds(TEACHER), in_rounds(measured())), "pass"),
        (Budget(min_speedup=10.1), (in_rounds(TEACHER), in_rounds(measured())), "fail"),
        (Budget(min_speedup=2.0), (TEACHER, measured()), "inconclusive"),
        (Budget(min_speedup=2.0), (measured(),), "inconclusive"),
        (Budget(min_speedup=2.0), (TEACHER, measured(target="openvino:cpu:int8:4")), "inconclusive"),
        (Budget(min_speedup=2.0), (TEACHER, measured(target="openvino:cuda:int8:1")), "inconclusive"),
        (Budget(min_compression=16.0), (TEACHER, measured()), "pass"),
        (Budget(min_compression=16.1), (TEACHER, measured()), "fail"),
        (Budget(min_compression=16.0), (measured(),), "inconclusive"),
    ],
)
def test_budgets(budget: Budget, measurements: tuple[Measurement, ...], outcome: str) -> None:
    verdict = verdict_on((comparison(),), policy(budget=budget), measurements)
    assert verdict.outcome == outcome
    assert len(verdict.variants[0].checks) == 2


def test_a_broken_budget_fails_even_where_the_rest_is_inconclusive() -> None:
    compared = (comparison(too_few="3 patients"),)
    assert verdict_on(compared, policy(budget=Budget(p50_ms=1.0)), (measured(),)).outcome == "fail"


def test_every_shipped_variant_must_pass() -> None:
    both = ("int8", "fp32")
    good, other = comparison(), comparison(variant="fp32")
    assert verdict_on((good, other), shipped=both).outcome == "pass"
    verdict = verdict_on((good,), shipped=both)
    assert [v.outcome for v in verdict.variants] == ["pass", "inconclusive"]
    assert verdict.outcome == "inconclusive"
    worse = comparison(-0.2, p_worse=0.001, variant="fp32")
    assert verdict_on((good, worse), shipped=both).outcome == "fail"
    with pytest.raises(InputError, match="no variant"):
        verdict_on((), shipped=())


def test_a_findings_own_entry_goes_before_the_general_one() -> None:
    strict = NonInferiority(metric="auroc", margin=0.005, finding="opacity")
    verdict = verdict_on((comparison(margin=0.005),), policy(non_inferiority=(AUROC, strict)))
    assert [check.outcome for check in verdict.variants[0].checks] == ["inconclusive"]
    unknown = NonInferiority(metric="auroc", margin=0.05, finding="fracture")
    with pytest.raises(InputError, match="names finding 'fracture', which this task lacks; it has opacity"):
        verdict_on((comparison(),), policy(non_inferiority=(unknown,)))


def rounds_of(name: str, target: str, ms: list[float], cpu_ms: list[float] | None = None) -> Measurement:
    samples = tuple(float(value) for value in np.repeat(ms, 40))
    return Measurement(
        name=name, target=target, session_ms=samples, calls_per_round=40, size_bytes=1, cpu_ms=tuple(cpu_ms or ())
    )


NOISE = ("the load was 9.0 when the measurement began",)
STEADY, WAITING = [100.0] * 10, [100.0 * (1 + number) for number in range(10)]


@pytest.mark.parametrize(
    ("limit", "teacher_ms", "teacher_cpu_ms", "noise", "outcome"),
    [
        # 10 times as fast for certain, and 55 times where the teacher mostly waited.
        (9.0, STEADY, None, (), "pass"),
        (18.0, WAITING, STEADY, (), "pass"),
        (20.0, WAITING, STEADY, NOISE, "fail"),
        (9.0, WAITING, STEADY, NOISE, "pass"),
        # Without processor times only the rounds bound it: 10 to 100 times.
        (9.0, WAITING, None, NOISE, "pass"),
        (20.0, WAITING, None, NOISE, "inconclusive"),
        (200.0, WAITING, None, NOISE, "fail"),
    ],
)
def test_a_speed_up_on_noisy_timings_holds_by_the_noises_own_bound(
    limit: float, teacher_ms: list[float], teacher_cpu_ms: list[float] | None, noise: tuple[str, ...], outcome: str
) -> None:
    teacher = rounds_of("teacher", "torch:cpu:fp32:1", teacher_ms, teacher_cpu_ms)
    bundle = rounds_of("int8", "openvino:cpu:int8:1", [10.0] * 10, [10.0] * 10)
    (check,) = check_budget(Budget(min_speedup=limit), "int8", (teacher, bundle), noise=noise)
    assert check.outcome == outcome, check.reason
    assert ("noisy: the load was 9.0" in check.reason) == bool(noise)
    assert ("by processor time, at worst 10 to 10" in check.reason) == bool(noise and teacher_cpu_ms)


@pytest.mark.parametrize(("limit", "quiet", "noisy"), [(11.0, "pass", "pass"), (9.0, "fail", "inconclusive")])
def test_a_time_is_only_lengthened_by_noise(limit: float, quiet: str, noisy: str) -> None:
    for noise, outcome in (((), quiet), (NOISE, noisy)):
        (check,) = check_budget(Budget(p50_ms=limit), "int8", (measured(),), noise=noise)
        assert check.outcome == outcome
    # A size is a size.
    (size,) = check_budget(Budget(size_bytes=1), "int8", (measured(),), noise=NOISE)
    assert size.outcome == "fail"


@pytest.mark.parametrize(
    ("changes", "cases", "outcome"),
    [
        ({}, 300, "pass"),
        ({"noise": 0.15}, 300, "pass"),
        ({"shift": 1.5}, 300, "fail"),
        ({"noise": 0.9}, 300, "inconclusive"),
        ({}, 38, "inconclusive"),
        ({"shift": 1.5}, 38, "inconclusive"),
    ],
)
def test_from_evaluations(make_evaluation: MakeEvaluation, changes: dict[str, float], cases: int, outcome: str) -> None:
    entries = (AUROC, NonInferiority(metric="sensitivity", margin=0.1), NonInferiority(metric="f1", margin=0.1))
    rules = policy(non_inferiority=entries)
    variant = make_evaluation("int8", cases=cases, **changes)
    evidence = gather(make_evaluation(cases=cases), (variant,), rules, Task(kind="multilabel", labels=variant.findings))
    verdict = judge_evidence(evidence, rules, policy_sha256="p" * 64)
    assert verdict.outcome == outcome, verdict
    if cases == 38:
        assert all("too few" in check.reason for check in verdict.variants[0].checks)


def test_stored_verdicts_cite_what_they_rest_on() -> None:
    (stored,) = stored_verdicts(verdict_on((comparison(),)), report_sha256="r" * 64, date="2026-01-01T00:00:00Z")
    assert (stored.variant, stored.outcome) == ("int8", "pass")
    assert (stored.model_digest[0], stored.policy_sha256[0], stored.report_sha256[0]) == ("m", "p", "r")


def test_junit_shows_all_but_a_pass_as_failure_and_survives_hostile_text(tmp_path: Path) -> None:
    hostile = '<b> & "quotes" ]]> \x00\x1b\ud800 ü'
    checks = tuple(
        Check(name=f"{outcome} {hostile}", outcome=outcome, reason=hostile)
        for outcome in ("pass", "fail", "inconclusive")
    )
    verdict = Verdict(
        outcome="fail",
        variants=(VariantVerdict(variant=hostile, outcome="fail", checks=checks),),
        policy_sha256="p" * 64,
        model_digest="m" * 64,
        notes=(hostile,),
    )
    save_junit(verdict, tmp_path / "deep" / "junit.xml")
    data = (tmp_path / "deep" / "junit.xml").read_bytes()
    assert data == render_junit(verdict)
    root = ElementTree.fromstring(data)
    assert (root.tag, root.get("tests"), root.get("failures")) == ("testsuites", "3", "2")
    passed, failed, open_case = root.findall("testsuite/testcase")
    assert passed.find("failure") is None
    assert '<b> & "quotes" ]]> ��� ü' in (passed.findtext("system-out") or "")
    assert [case.find("failure").get("type") for case in (failed, open_case)] == ["fail", "inconclusive"]
    assert open_case.find("failure").get("message").startswith("inconclusive: ")
