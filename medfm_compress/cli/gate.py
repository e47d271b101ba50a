"""``medfm-compress gate``: pass, fail or inconclusive, from a report and a policy alone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medfm_compress.cli import console
from medfm_compress.runtime.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK, InputError

if TYPE_CHECKING:
    from medfm_compress.bench.policy import LoadedPolicy
    from medfm_compress.bench.report import Report
    from medfm_compress.bench.types import Verdict
    from medfm_compress.runtime.bundle import Bundle

_EXIT_CODES = {"pass": EXIT_OK, "fail": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}


def gate(
    report: Annotated[Path, typer.Argument(help="report.json that bench wrote.")],
    policy: Annotated[Path, typer.Option(help="The policy that the report was made under, YAML or JSON.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Check that the report is of this bundle, and record the verdicts in it.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here; all but a pass shows as a failure.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    accept_changed_policy: Annotated[
        bool, typer.Option("--accept-changed-policy", help="Judge by a policy that changed since; said in the verdict.")
    ] = False,
) -> None:
    """Judge a bundle: exit code 0 pass, 1 fail, 3 inconclusive.

    The statistics are computed again from the per-case scores in the report.
    """
    from medfm_compress.bench.gate import judge_evidence, recompute, stored_verdicts
    from medfm_compress.bench.junit import save_junit
    from medfm_compress.bench.policy import load_policy
    from medfm_compress.bench.report import parse_report
    from medfm_compress.runtime.bundle import rewrite_bundle, utc_date

    data = _read(report)
    made, declared = parse_report(data, source=str(report)), load_policy(policy)
    notes = _policy_notes(made, declared, accept_changed_policy)
    opened = _open(bundle, made) if bundle else None
    shipped = [variant.name for variant in opened.manifest.variants] if opened else ()
    evidence = recompute(made, declared.policy, shipped)
    verdict = judge_evidence(evidence, declared.policy, policy_sha256=declared.sha256, notes=notes)
    if junit:
        save_junit(verdict, junit)
    if bundle and opened:
        stored = stored_verdicts(verdict, report_sha256=hashlib.sha256(data).hexdigest(), date=utc_date())
        rewrite_bundle(opened, bundle, verdicts=stored)
    if json:
        console.emit_json({"verdict": verdict, "comparisons": evidence.comparisons})
    else:
        _describe(verdict, made, bundle)
    raise typer.Exit(_EXIT_CODES[verdict.outcome])


def _read(report: Path) -> bytes:
    try:
        return report.read_bytes()
    except OSError as exc:
        raise InputError(f"cannot read report {report}: {exc.strerror}; medfm-compress bench makes one") from None


def _policy_notes(made: Report, declared: LoadedPolicy, accepted: bool) -> tuple[str, ...]:
    """What must be said where the policy is not the one that the report was made under."""
    if declared.sha256 == made.policy_sha256:
        return ()
    told = f"the policy (sha256 {declared.sha256[:12]}) is not the one that the report was made under"
    if not accepted:
        raise InputError(
            f"{told} ({made.policy_sha256[:12]}): it must be written before the test cases are evaluated; give that "
            "one, or --accept-changed-policy to judge by this one and have the verdict say so"
        )
    return (f"{told} ({made.policy_sha256[:12]}): it changed after the test cases were evaluated",)


def _open(path: Path, made: Report) -> Bundle:
    from medfm_compress.runtime.bundle import Bundle

    opened = Bundle.open(path)
    if opened.model_digest != made.model_digest:
        raise InputError(
            f"{path} holds model {opened.model_digest[:12]}, the report is of model {made.model_digest[:12]}; "
            "bench this bundle and judge that report"
        )
    return opened


def _describe(verdict: Verdict, made: Report, bundle: Path | None) -> None:
    console.say(f"{verdict.outcome.upper()}: {made.bundle_name} (model {verdict.model_digest[:12]})")
    for note in verdict.notes:
        console.say(f"note: {note}")
    for judged in verdict.variants:
        console.say()
        console.say(f"{judged.variant}: {judged.outcome}")
        for check in judged.checks:
            console.say(f"  {check.outcome:<12}  {check.name}: {check.reason}")
    if bundle:
        console.say()
        console.say(f"recorded in {bundle}")
