"""``medfm-compress gate``: pass, fail or inconclusive, from a report and a policy, or from a bundle and a study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medfm_compress.bench.measure.latency import Plan
from medfm_compress.cli import console
from medfm_compress.cli.command import command
from medfm_compress.cli.compress import EXIT_CODES
from medfm_compress.cli.outputs import check_new_files, check_report_out
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.regular_file import read_regular

if TYPE_CHECKING:
    from medfm_compress.bench.gate.decision import Decision
    from medfm_compress.bench.gate.policy_file import LoadedPolicy


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
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files that are written, and the report, if they are there.")
    ] = False,
    note: Annotated[list[str] | None, typer.Option(help="A sentence to put into the verdict's notes.")] = None,
) -> None:
    """Judge a bundle: exit code 0 pass, 1 fail, 3 inconclusive.

    From a report alone: the statistics are computed again from its per-case scores. With --bundle, --study, --teacher
    and --out in place of a report the bench runs first.
    """
    from medfm_compress.bench.gate.judge_report import JudgeRequest, judge_report, record_verdicts
    from medfm_compress.bench.gate.policy_file import parse_policy
    from medfm_compress.bench.report import MAX_REPORT_BYTES
    from medfm_compress.data.strict_yaml import MAX_YAML_BYTES

    if policy is None:
        raise InputError("give --policy; 'medfm-compress policy init policy.yaml' writes a starter")
    rules = _read(policy, MAX_YAML_BYTES, "the policy", "'medfm-compress policy init' writes a starter")
    declared = parse_policy(rules, source=f"policy {policy}")
    needed = {"--bundle": bundle, "--teacher": teacher, "--out": out}
    _check_source(report, study, needed)
    check_new_files({"--junit": junit, "--markdown": markdown, "--sarif": sarif}, overwrite)
    if out:
        check_report_out(out, overwrite)
    if bundle and study and teacher and out:
        _bench(study, teacher, bundle, declared, plan, out)
    path = report or (out or Path()) / "report.json"
    data = _read(path, MAX_REPORT_BYTES, "the report", "medfm-compress bench makes one")
    request = JudgeRequest(
        path, data, declared, bundle, check_study, baseline_report, accept_changed_policy, tuple(note or ())
    )
    decision = judge_report(request)
    _save(decision, junit, markdown)
    if sarif:
        _save_sarif(decision, sarif, rules, policy_name or str(policy), path)
    dropped = record_verdicts(decision, data, bundle, bundle) if bundle else 0
    console.emit(lambda: _as_json(decision), lambda: _print(decision, bundle, dropped))
    raise typer.Exit(EXIT_CODES[decision.verdict.outcome])


def _read(path: Path, limit: int, what: str, hint: str) -> bytes:
    try:
        return read_regular(path, limit, what)
    except InputError as exc:
        raise InputError(f"{exc}; {hint}") from None


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
    from medfm_compress.step_settings import BenchStep

    sources = (TeacherSource(source=str(teacher)),)
    steps.bench(study, sources, bundle, declared, BenchStep(plan=plan), console.progress, out)


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


def _as_json(decision: Decision) -> dict[str, Any]:
    document: dict[str, Any] = {"verdict": decision.verdict, "comparisons": decision.evidence.comparisons}
    earlier = decision.earlier
    if earlier is None:
        return document
    changes = {name: [change._asdict() for change in getattr(earlier, name)] for name in ("estimates", "medians_ms")}
    return document | {"earlier": earlier._asdict() | changes}


def _print(decision: Decision, bundle: Path | None, dropped: int) -> None:
    from medfm_compress.cli.gate_summary import print_decision

    print_decision(decision)
    if bundle:
        console.say()
        console.say(f"recorded in {bundle}")
    if dropped:
        console.say(f"its {dropped} signature(s) were of the bundle as it was and are dropped; sign it again")
