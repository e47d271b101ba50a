"""``medfm-compress gate``: pass, fail or inconclusive, from a report and a policy, or from a bundle and a study."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from medfm_compress.bench.measure.latency import Plan
from medfm_compress.cli import console
from medfm_compress.cli.command import command
from medfm_compress.cli.compress import EXIT_CODES
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.bench.gate.decision import Decision
    from medfm_compress.bench.gate.policy_file import LoadedPolicy
    from medfm_compress.bench.report import Report


@command()
def gate(
    plan: Plan,
    report: Annotated[
        Path | None, typer.Argument(help="report.json that bench wrote; or give --study.", metavar="REPORT")
    ] = None,
    policy: Annotated[Path | None, typer.Option(help="What must hold, YAML or JSON; docs/policy.md.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Check that the report is of this bundle, and record the verdicts in it.")
    ] = None,
    study: Annotated[Path | None, typer.Option(help="Bench --bundle on this study first; needs the toolchain.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="With --study: model folder of the teacher.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --study: folder for the report.")] = None,
    check_study: Annotated[Path | None, typer.Option(help="Refuse a report that is not of this study.")] = None,
    baseline_report: Annotated[
        Path | None, typer.Option(help="An earlier report on the same cases, shown beside this one and not judged.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML here; all but a pass shows as a failure.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a comment for a pull request here.")] = None,
    sarif: Annotated[Path | None, typer.Option(help="Write SARIF 2.1.0 here, for code scanning.")] = None,
    policy_name: Annotated[
        str, typer.Option(help="Path of the policy in the repository, for SARIF; default: as given.")
    ] = "",
    accept_changed_policy: Annotated[
        bool, typer.Option("--accept-changed-policy", help="Judge by a policy that changed since; said in the verdict.")
    ] = False,
    note: Annotated[list[str] | None, typer.Option(help="A sentence to put into the verdict's notes.")] = None,
) -> None:
    """Judge a bundle: exit code 0 pass, 1 fail, 3 inconclusive.

    From a report alone: the statistics are computed again from its per-case scores. With --bundle, --study, --teacher
    and --out in place of a report the bench runs first.
    """
    from medfm_compress.bench.gate.policy_file import parse_policy

    if policy is None:
        raise InputError("give --policy; 'medfm-compress policy init policy.yaml' writes a starter")
    rules = _read(policy, "the policy", "'medfm-compress policy init' writes a starter")
    declared = parse_policy(rules, source=f"policy {policy}")
    needed = {"--bundle": bundle, "--teacher": teacher, "--out": out}
    _check_source(report, study, needed)
    if bundle and study and teacher and out:
        _bench(study, teacher, bundle, declared, plan, out)
    path = report or (out or Path()) / "report.json"
    data = _read(path, "the report", "medfm-compress bench makes one")
    opened = _Opened(path, data, bundle, check_study, baseline_report)
    decision = _judge(opened, declared, accept_changed_policy, tuple(note or ()))
    _save(decision, junit, markdown)
    if sarif:
        _save_sarif(decision, sarif, rules, policy_name or str(policy), path)
    if bundle:
        _record(decision, bundle, data)
    console.emit(lambda: _as_json(decision), lambda: _print(decision, bundle))
    raise typer.Exit(EXIT_CODES[decision.verdict.outcome])


class _Opened(NamedTuple):
    """What is judged, and what it is held against."""

    path: Path
    data: bytes
    bundle: Path | None
    check_study: Path | None
    baseline: Path | None


def _read(path: Path, what: str, hint: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InputError(f"cannot read {what} {path}: {exc.strerror}; {hint}") from None


def _check_source(report: Path | None, study: Path | None, needed: dict[str, Path | None]) -> None:
    """A report, or a study to bench on; never both, and never half of the second."""
    if report and study:
        raise InputError(
            "give a report to judge, or --study to bench first, not both; --check-study checks whose report it is"
        )
    if report:
        idle = [name for name in ("--teacher", "--out") if needed[name]]
        if idle:
            raise InputError(f"{idle[0]} has a meaning with --study only; leave it out, or leave the report out")
        return
    if study is None:
        raise InputError("give the report to judge, or --bundle, --study, --teacher and --out to bench first")
    missing = [name for name, path in needed.items() if path is None]
    if missing:
        raise InputError(f"--study benches first, and needs {', '.join(missing)} too")


def _bench(study: Path, teacher: Path, bundle: Path, declared: LoadedPolicy, plan: Plan, out: Path) -> None:
    from medfm_compress.teacher_baselines import require_toolchain

    require_toolchain()  # before anything that imports PyTorch

    from medfm_compress import steps
    from medfm_compress.compress.teachers.source import TeacherSource
    from medfm_compress.recipe import BenchStep

    sources = (TeacherSource(source=str(teacher)),)
    steps.bench(study, sources, bundle, declared, BenchStep(plan=plan), console.progress, out)


def _judge(opened: _Opened, declared: LoadedPolicy, accepted: bool, more_notes: tuple[str, ...]) -> Decision:
    from medfm_compress.bench.gate.baseline_report import compare_to_baseline
    from medfm_compress.bench.gate.decision import Decision, reuse_warnings
    from medfm_compress.bench.gate.gate import judge_evidence, recompute
    from medfm_compress.bench.report import load_report, parse_report

    made = parse_report(opened.data, source=str(opened.path))
    notes = (*more_notes, *_policy_notes(made, declared, accepted), *reuse_warnings(made))
    if opened.check_study:
        _check_study(opened.check_study, made)
    shipped = _shipped(opened.bundle, made) if opened.bundle else ()
    evidence = recompute(made, declared.policy, shipped)
    verdict = judge_evidence(evidence, declared.policy, policy_sha256=declared.sha256, notes=notes)
    earlier = None
    if opened.baseline:
        earlier = compare_to_baseline(made, evidence, load_report(opened.baseline), declared.policy)
    return Decision(verdict, evidence, declared.policy, made, earlier)


def _policy_notes(made: Report, declared: LoadedPolicy, accepted: bool) -> tuple[str, ...]:
    """What must be said where the policy is not the one that the report was made under."""
    if declared.sha256 == made.policy_sha256:
        return ()
    text = f"the policy (sha256 {declared.sha256[:12]}) is not the one that the report was made under"
    if not accepted:
        raise InputError(
            f"{text} ({made.policy_sha256[:12]}): it must be written before the test cases are evaluated; give that "
            "one, or --accept-changed-policy to judge by this one and have the verdict say so"
        )
    return (f"{text} ({made.policy_sha256[:12]}): it is not known to be older than the evaluation of the test cases",)


def _check_study(path: Path, made: Report) -> None:
    from medfm_compress.data.fingerprint import study_fingerprint
    from medfm_compress.data.open import open_study

    fingerprint = study_fingerprint(open_study(path))
    if fingerprint != made.study_fingerprint:
        raise InputError(
            f"the report is of study {made.study_fingerprint[:12]}, {path} is study {fingerprint[:12]}: other cases, "
            "labels, splits or images; bench the bundle on this study and judge that report"
        )


def _shipped(path: Path, made: Report) -> tuple[str, ...]:
    """Names of the bundle's variants; raises InputError where the report is of another model."""
    from medfm_compress.runtime.bundle.bundle import Bundle

    opened = Bundle.open(path)
    if opened.model_digest != made.model_digest:
        raise InputError(
            f"{path} holds model {opened.model_digest[:12]}, the report is of model {made.model_digest[:12]}; "
            "bench this bundle and judge that report"
        )
    return tuple(variant.name for variant in opened.manifest.variants)


def _save(decision: Decision, junit: Path | None, markdown: Path | None) -> None:
    from medfm_compress.bench.render.junit import save_junit
    from medfm_compress.bench.render.markdown import save_markdown

    if junit:
        save_junit(decision.verdict, junit)
    if markdown:
        save_markdown(decision, markdown)


def _save_sarif(decision: Decision, path: Path, rules: bytes, policy_name: str, report: Path) -> None:
    from medfm_compress.bench.render.sarif import save_sarif

    save_sarif(decision, path, rules, policy_name, str(report))


def _record(decision: Decision, bundle: Path, data: bytes) -> None:
    """Write the verdicts into the bundle."""
    from medfm_compress.bench.gate.gate import stored_verdicts
    from medfm_compress.runtime.bundle.bundle import rewrite_bundle, utc_date

    sha256 = hashlib.sha256(data).hexdigest()
    rewrite_bundle(bundle, bundle, verdicts=stored_verdicts(decision.verdict, report_sha256=sha256, date=utc_date()))


def _as_json(decision: Decision) -> dict[str, Any]:
    document: dict[str, Any] = {"verdict": decision.verdict, "comparisons": decision.evidence.comparisons}
    earlier = decision.earlier
    if earlier is None:
        return document
    changes = {name: [change._asdict() for change in getattr(earlier, name)] for name in ("estimates", "medians_ms")}
    return document | {"earlier": earlier._asdict() | changes}


def _print(decision: Decision, bundle: Path | None) -> None:
    from medfm_compress.cli.gate_summary import print_decision

    print_decision(decision)
    if bundle:
        console.say()
        console.say(f"recorded in {bundle}")
