"""Requirement → test → result, laid out under the three headings of a predetermined change control plan.

The policy is the change protocol's acceptance criteria: it was written before the test cases were evaluated, and its
hash is in the report. Headings follow FDA, Marketing Submission Recommendations for a Predetermined Change Control Plan
for Artificial Intelligence-Enabled Device Software Functions (2024): description of modifications, modification
protocol, impact assessment.
"""

from __future__ import annotations

from collections.abc import Iterator

from medfm_compress.bench.gate.decision import Decision, policy_keys
from medfm_compress.bench.gate.policy_line_numbers import nearest_line, policy_lines
from medfm_compress.bench.render.markdown import escape, table
from medfm_compress.bench.types.verdict import Check
from medfm_compress.runtime.bundle.manifest import Manifest

_PROTOCOL = (
    "Difference = bundle − teacher on the same cases, paired, clustered by patient. A requirement passes where its "
    "interval excludes the margin, fails where it is significantly worse after Holm's adjustment, and is inconclusive "
    "otherwise. All must pass. The figures below are computed from the per-case scores in this pack, by the same code "
    "as the gate's; `evidence verify` computes them again."
)


def control_plan(decision: Decision, manifest: Manifest, policy: bytes, has_change_report: bool) -> str:
    """The plan's page, Markdown."""
    report, verdict = decision.report, decision.verdict
    steps = [f"{number}. {escape(step)}" for number, step in enumerate(manifest.provenance.steps, start=1)]
    compared = "See `change-report.md` for what differs from the bundle before." if has_change_report else (
        "No earlier bundle was given: the modification is from the teacher to this bundle."
    )  # fmt: skip
    parts = [
        f"# Change control: {escape(report.bundle_name)}",
        f"Verdict: **{verdict.outcome}**. Model `{verdict.model_digest}`, policy `{verdict.policy_sha256}`.",
        "## Description of modifications",
        f"Teacher: {escape(manifest.provenance.teacher or 'not recorded')}. Deployed: "
        f"{escape(manifest.provenance.student or 'not recorded')}. {compared}",
        "\n".join(steps) or "No steps are recorded.",
        "## Modification protocol",
        "### Data",
        f"Training study `{manifest.provenance.study_fingerprint or 'not recorded'}`, thresholds chosen on study "
        f"`{manifest.provenance.calibration_fingerprint or 'not recorded'}`; evaluated on split "
        f"{escape(report.split)} of study `{report.study_fingerprint}`, {len(report.teacher.clusters)} cases of "
        f"{len(set(report.teacher.clusters))} patients. Evaluations of this split so far: "
        f"{max(len(report.test_set_evaluations), 1)}.",
        "### Acceptance criteria, tests and results",
        _PROTOCOL,
        table(("", "Requirement", "Policy", "Test", "Variant", "Result", "Figures"), _trace(decision, policy)),
        "### Update procedure",
        "The bundle is signed by a builder, its verdict by an approver; a device refuses a bundle without both, and one"
        f" whose release is below the highest that it accepted. Release: {manifest.release_number or 'none'}.",
        "## Impact assessment",
        _notes(decision),
    ]
    return "\n\n".join(parts) + "\n"


def _trace(decision: Decision, policy: bytes) -> Iterator[tuple[str, ...]]:
    keys, lines = policy_keys(decision), policy_lines(policy)
    number = 0
    for judged in decision.verdict.variants:
        for check in judged.checks:
            number += 1
            key = keys.get(check.name, ())
            where = ".".join(str(part) for part in key) or "all"
            line = nearest_line(key, lines)
            yield (
                f"R{number}",
                escape(check.name),
                escape(f"{where}{f', line {line}' if line else ''}"),
                _test(decision, judged.variant, check, where),
                escape(judged.variant),
                check.outcome,
                escape(check.reason),
            )


def _test(decision: Decision, variant: str, check: Check, where: str) -> str:
    """How it was tested, in words."""
    comparison = decision.comparison(variant, check)
    if comparison is not None:
        method = escape(comparison.difference.method or "paired difference")
        return f"{method}; {comparison.cases} cases, {comparison.patients} patients"
    kinds = {
        "budget": "measured on the machine in `environment.json`",
        "fidelity": "case by case against the teacher",
        "explanations": "order statistics of the median over patients",
    }
    return kinds.get(where.partition(".")[0], "the interval of the model's own value")


def _notes(decision: Decision) -> str:
    verdict = decision.verdict
    open_checks = [
        f"- {escape(judged.variant)}: {escape(check.name)} is {check.outcome}: {escape(check.reason)}"
        for judged in verdict.variants
        for check in judged.checks
        if check.outcome != "pass"
    ]
    said = [f"- {escape(note)}" for note in verdict.notes]
    return "\n".join([*open_checks, *said]) or "Every requirement holds, and nothing was noted."
