"""The comment on a pull request."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from medfm_compress.bench.evaluate.evaluate import EvaluationTable
from medfm_compress.bench.gate.baseline_report import BaselineComparison, Change
from medfm_compress.bench.gate.decision import Decision
from medfm_compress.bench.gate.gate import judge_evidence, recompute
from medfm_compress.bench.render.markdown import MARKER, escape, render_markdown, save_markdown
from medfm_compress.bench.report import REPORT_SCHEMA_VERSION, Report
from medfm_compress.bench.types.measurement import Measurement
from medfm_compress.bench.types.policy import Budget, NonInferiority, Policy
from medfm_compress.bench.types.verdict import Check, VariantVerdict, Verdict
from medfm_compress.runtime.bundle.manifest import Provenance

POLICY = Policy(
    non_inferiority=(NonInferiority(metric="auroc", margin=0.05),), budget=Budget(p50_ms=20), resamples=1000
)


def judged(tiny: ModuleType, reports: ModuleType, policy: Policy = POLICY, **changes: float) -> Decision:
    evaluations = (reports.evaluation("teacher"), reports.evaluation("int8", **changes))
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
        measurements=(Measurement(name="int8", target="openvino:cpu:int8:1", session_ms=(10.0,) * 120),),
        comparisons=(),
        machine=reports.MACHINE,
        provenance=Provenance(),
        created="2026-01-01T00:00:00Z",
    )
    evidence = recompute(report, policy)
    return Decision(judge_evidence(evidence, policy, policy_sha256="b" * 64), evidence, policy, report)


@pytest.mark.parametrize(
    ("changes", "title", "reason"),
    [
        ({}, "## ✅ Pass: tiny", ""),
        ({"shift": 1.5}, "## ❌ Fail: tiny", "significantly worse than the margin allows"),
        ({"noise": 1.2}, "## ⚠️ Inconclusive: tiny", "of studies were the two equal in truth"),
    ],
)
def test_the_verdict_comes_first_and_its_reasons_after(tiny, reports, changes, title, reason) -> None:
    lines = [line for line in render_markdown(judged(tiny, reports, **changes)).splitlines() if line]
    assert lines[:2] == [MARKER, title]
    if reason:
        assert re.match(
            r"- \S+ \*\*auroc of opacity\*\* \(\w+, int8\): 0\.\d+ against the teacher's 0\.\d+; ", lines[3]
        )
        assert reason in lines[3]
    else:
        assert not any(line.startswith("- ") for line in lines)


def test_every_table_is_whole(tiny, reports) -> None:
    text = render_markdown(
        judged(tiny, reports)._replace(
            earlier=BaselineComparison(
                "2025-12-01", "c" * 64, (Change("int8", "auroc of a|b", 0.9, 0.91),), (), "another machine"
            )
        )
    )
    tables = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    assert len(tables) == 3
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "Timings: another machine." in text


def test_a_long_verdict_stays_short_and_says_what_it_leaves_out(tiny, reports, tmp_path: Path) -> None:
    checks = tuple(Check(name=f"limit {number}", outcome="fail", reason="x" * 5000) for number in range(200))
    decision = judged(tiny, reports)
    verdict = Verdict(
        outcome="fail",
        variants=(VariantVerdict(variant="int8", outcome="fail", checks=checks),),
        policy_sha256="b" * 64,
        model_digest="a" * 64,
    )
    save_markdown(decision._replace(verdict=verdict), tmp_path / "deep" / "c.md")
    text = (tmp_path / "deep" / "c.md").read_text()
    assert len(text) < 65_536  # GitHub's limit of a comment
    assert "and 190 more in the table below" in text
    assert "<details><summary>All 200 checks</summary>" in text
    assert "140 more rows are in the JUnit file" in text

    long = tuple(msgspec.structs.replace(check, name=f"{check.name} {'&' * 5000}") for check in checks)
    variants = (msgspec.structs.replace(verdict.variants[0], variant="&" * 5000, checks=long),)
    hostile = render_markdown(decision._replace(verdict=msgspec.structs.replace(verdict, variants=variants)))
    assert len(hostile) < 65_536
    assert "## ❌ Fail" in hostile and "The tables do not fit into a comment" in hostile


HOSTILE = (
    "<img src=x onerror=1> | @maintainer #12 GH-3 [a](https://e.example) `x` **b** \n# Pass\n ~~s~~ $x$ \x1b\u202e &lt;"
)


def test_text_of_a_file_is_shown_and_never_read() -> None:
    markdown_it = pytest.importorskip("markdown_it")
    escaped = escape(HOSTILE)
    assert "\n" not in escaped and "\x1b" not in escaped and "\u202e" not in escaped
    shown = markdown_it.MarkdownIt("commonmark").enable("table").render(f"- {escaped}")
    body = re.sub(r"</?(ul|li)>", "", shown)
    assert not re.search(r"<(?!/?p>)[a-z]", body), shown
    for live in ("@maintainer", "#12", "GH-3", "https://"):
        assert live not in escaped
    assert "maintainer" in escaped


def test_names_of_a_report_cannot_change_the_comment(tiny, reports) -> None:
    decision = judged(tiny, reports)
    checks = (Check(name=HOSTILE, outcome="fail", reason=HOSTILE),)
    verdict = msgspec.structs.replace(
        decision.verdict,
        outcome="fail",
        notes=(HOSTILE,),
        variants=(VariantVerdict(variant=HOSTILE, outcome="fail", checks=checks),),
    )
    report = msgspec.structs.replace(
        decision.report, bundle_name=HOSTILE, noise=(HOSTILE,), split=HOSTILE, created=HOSTILE
    )
    text = render_markdown(decision._replace(verdict=verdict, report=report))
    for live in ("<img", "@maintainer", "[a](http", "\n# Pass", " #12"):
        assert live not in text
