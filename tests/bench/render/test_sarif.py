"""SARIF: what its schema requires, lines of the policy, and names that stay the same from run to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.evaluate.fidelity import check_fidelity
from medfm_compress.bench.gate.budget import check_budget
from medfm_compress.bench.gate.decision import Decision, policy_keys
from medfm_compress.bench.gate.gate import judge_evidence, recompute
from medfm_compress.bench.gate.policy_file import parse_policy
from medfm_compress.bench.gate.policy_line_numbers import nearest_line, policy_lines
from medfm_compress.bench.render.sarif import FINGERPRINT, render_sarif, save_sarif
from medfm_compress.bench.report import REPORT_SCHEMA_VERSION, Report
from medfm_compress.bench.types.policy import Budget, FidelityLimits
from medfm_compress.bench.types.verdict import Check, VariantVerdict
from medfm_compress.runtime.bundle.manifest import Provenance

POLICY = b"""\
# comment
non_inferiority:
  - metric: auroc
    margin: 0.05
    bundle_floor: 0.9
  - {metric: brier, margin: 0.02, subgroup: sex}
subgroups: [{column: sex}]
budget:
  # a limit
  p50_ms: 20
fidelity: {min_agreement: 0.9}
resamples: 1000
"""


@pytest.fixture(scope="module")
def failing(tiny: Any, reports: Any) -> Decision:
    policy = parse_policy(POLICY).policy
    evaluations = (reports.evaluation("teacher"), reports.evaluation("int8", shift=1.5))
    report = Report(
        schema_version=REPORT_SCHEMA_VERSION,
        bundle_name="tiny",
        model_digest="a" * 64,
        study_fingerprint="f" * 64,
        split="test",
        policy=policy,
        policy_sha256="b" * 64,
        task=tiny.TASK,
        teacher_name="resnet18",
        evaluations=tuple(EvaluationTable.from_evaluation(evaluation) for evaluation in evaluations),
        measurements=(),
        comparisons=(),
        machine=reports.MACHINE,
        provenance=Provenance(),
        created="2026-01-01T00:00:00Z",
    )
    evidence = recompute(report, policy)
    return Decision(judge_evidence(evidence, policy, policy_sha256="b" * 64), evidence, policy, report)


def results(decision: Decision) -> dict[str, dict[str, Any]]:
    log = render_sarif(decision, POLICY, "ml/policy.yaml", "out/report.json")
    return {result["message"]["text"].split(" (int8)")[0]: result for result in log["runs"][0]["results"]}


def test_every_check_but_a_pass_points_at_the_line_that_asks_for_it(failing: Decision) -> None:
    by_text = results(failing)
    lines = {
        name: result["locations"][0]["physicalLocation"]["region"]["startLine"] for name, result in by_text.items()
    }
    assert lines == {
        "fail: auroc of opacity": 3,
        "fail: auroc of opacity, floor of the bundle": 5,
        "fail: brier of opacity, sex = F": 6,
        "fail: brier of opacity, sex = M": 6,
        "fail: agreement of decisions": 11,
        "inconclusive: p50 latency": 10,
    }
    assert {result["ruleId"] for result in by_text.values()} == {
        "non-inferiority/auroc",
        "floor/auroc",
        "non-inferiority/brier",
        "fidelity/min_agreement",
        "budget/p50_ms",
    }
    assert by_text["inconclusive: p50 latency"]["level"] == "warning"
    assert by_text["fail: auroc of opacity"]["level"] == "error"


def test_the_log_has_what_the_standard_requires(failing: Decision, tmp_path: Path) -> None:
    """Required properties of SARIF 2.1.0: §3.13.2, §3.14.6, §3.18.2, §3.19.8, §3.27.5, §3.27.11, §3.49.3."""
    save_sarif(failing, tmp_path / "deep" / "s.sarif", POLICY, "a b/policy.yaml", "report.json")
    log = json.loads((tmp_path / "deep" / "s.sarif").read_text())
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    ids = [rule["id"] for rule in driver["rules"]]
    assert len(set(ids)) == len(ids) and all(rule["shortDescription"]["text"] for rule in driver["rules"])
    for result in run["results"]:
        assert result["message"]["text"]
        assert result["level"] in {"none", "note", "warning", "error"}
        assert ids[result["ruleIndex"]] == result["ruleId"]
        place = result["locations"][0]["physicalLocation"]["artifactLocation"]
        assert place == {"uri": "a%20b/policy.yaml", "uriBaseId": "%SRCROOT%"}
    prints = [result["partialFingerprints"][FINGERPRINT] for result in run["results"]]
    assert len(set(prints)) == len(prints)


def test_fingerprints_do_not_change_with_the_figures(failing: Decision) -> None:
    def prints(decision: Decision) -> list[str]:
        return [result["partialFingerprints"][FINGERPRINT] for result in results(decision).values()]

    (variant,) = failing.verdict.variants
    later = tuple(msgspec.structs.replace(check, reason=f"{check.reason} later") for check in variant.checks)
    variants = (msgspec.structs.replace(variant, checks=later),)
    moved = failing._replace(verdict=msgspec.structs.replace(failing.verdict, variants=variants))
    assert prints(moved) == prints(failing)


def test_a_pass_leaves_no_result(failing: Decision) -> None:
    checks = (Check(name="auroc of opacity", outcome="pass", reason="fine"),)
    verdict = msgspec.structs.replace(
        failing.verdict, outcome="pass", variants=(VariantVerdict(variant="int8", outcome="pass", checks=checks),)
    )
    assert results(failing._replace(verdict=verdict)) == {}


def test_a_check_that_no_entry_asks_for_points_at_the_report(failing: Decision) -> None:
    checks = (Check(name="something else", outcome="fail", reason="see [here](https://e.example)"),)
    verdict = msgspec.structs.replace(
        failing.verdict, variants=(VariantVerdict(variant="int8", outcome="fail", checks=checks),)
    )
    (result,) = results(failing._replace(verdict=verdict)).values()
    assert result["ruleId"] == "check"
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "out/report.json"
    assert r"\[here\]" in result["message"]["text"]


def test_every_limit_that_a_policy_can_set_is_known_by_name(failing: Decision) -> None:
    keys = policy_keys(failing)
    limits = Budget(**dict.fromkeys(Budget.__struct_fields__, 1))
    names = {check.name for check in check_budget(limits, "int8", ())}
    names |= {check.name for check in check_fidelity(FidelityLimits(max_relative_logit_error=1, min_agreement=1), None)}
    assert names <= set(keys)
    known = {keys[name] for name in names}
    assert {key for section, key in known if section == "fidelity"} == set(FidelityLimits.__struct_fields__)


def test_lines_of_a_policy() -> None:
    lines = policy_lines(POLICY)
    assert lines["non_inferiority", 1] == 6
    assert lines["budget", "p50_ms"] == 10
    assert nearest_line(("budget", "p99_ms"), lines) == 8
    assert nearest_line(("nowhere",), lines) is None
    assert policy_lines(b"[1, 2") == policy_lines(b"") == {}


def test_numpy_does_not_reach_the_log(failing: Decision) -> None:
    log = render_sarif(failing, POLICY, "p.yaml", "r.json")
    assert json.loads(json.dumps(log)) == log
    assert not any(isinstance(value, np.generic) for value in log.values())
