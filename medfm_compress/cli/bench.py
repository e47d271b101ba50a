"""``medfm-compress bench``: a bundle against its teacher, in one interleaved run, under a policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from medfm_compress.cli import console
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.bench.measure.load_scenario import Harness, ScenarioName, ScenarioResult
    from medfm_compress.bench.report import Report
    from medfm_compress.bench.types.evaluation import Comparison
    from medfm_compress.bench.types.measurement import Measurement
    from medfm_compress.bench.types.verdict import Verdict


def bench(
    bundle: Annotated[Path, typer.Argument(help="The .medfm file.")],
    teacher: Annotated[list[str], typer.Option(help="Whatever can teach, see distill; several are averaged.")],
    study: Annotated[Path, typer.Option(help="Study with a test split.")],
    policy: Annotated[Path, typer.Option(help="policy.yaml, committed before the test cases are evaluated.")],
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.html and the evaluation log.")],
    threads: Annotated[int, typer.Option(help="Threads of every engine.")] = 1,
    targets: Annotated[
        str, typer.Option(help="Limit to these, e.g. openvino:cpu,onnxruntime:cpu,torch:cpu; default: all.")
    ] = "",
    against: Annotated[
        list[Path] | None, typer.Option(help="An ONNX file or bundle as external model; may be given several times.")
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="An earlier bundle: is this one slower? Interleaved pairs of processes.")
    ] = None,
    pairs: Annotated[int, typer.Option(help="With --baseline: pairs of processes, at least 10.")] = 10,
    scenario: Annotated[
        list[str] | None,
        typer.Option(help="Load to put on teacher and variants: single-stream, multi-stream, offline, server; or all."),
    ] = None,
    harness: Annotated[str, typer.Option(help="What drives the scenarios: loadgen (MLPerf's) or plain.")] = "loadgen",
    seconds: Annotated[float, typer.Option(help="Length of each scenario; below 600 it is unofficial.")] = 10.0,
    rounds: Annotated[int, typer.Option(help="Interleaved rounds.")] = 20,
    cache: Annotated[Path | None, typer.Option(help="Keep prepared images in this folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Evaluate and time a bundle against its teacher; the report goes to a folder, the verdict to the gate.

    The teacher always runs in PyTorch, because everything is held against it; name torch:cpu alone among its engines
    to leave its ONNX Runtime and OpenVINO rows out.
    """
    from medfm_compress import steps
    from medfm_compress.bench.gate.gate import judge
    from medfm_compress.bench.gate.policy_file import load_policy
    from medfm_compress.bench.measure.latency import Plan
    from medfm_compress.bench.measure.load_scenario import LoadPlan
    from medfm_compress.teacher_baselines import require_toolchain

    require_toolchain()  # before anything that imports PyTorch

    from medfm_compress.compress.teachers.source import TeacherSource
    from medfm_compress.recipe import BenchStep

    settings = BenchStep(
        plan=Plan(rounds=rounds, threads=threads),
        targets=tuple(part.strip() for part in targets.split(",") if part.strip()),
        external_models=tuple(map(str, against or ())),
        baseline=str(baseline or ""),
        pairs=pairs,
        scenarios=_parse_scenarios(scenario or []),
        harness=_parse_harness(harness),
        load=LoadPlan(duration_s=seconds),
        cache=str(cache or ""),
    )
    sources = tuple(TeacherSource(source=name) for name in teacher)
    report = steps.bench(study, sources, bundle, load_policy(policy), settings, console.progress, out)
    verdict = judge(report)
    if json:
        console.emit_json(report_as_json(report, verdict, out))
    else:
        describe_report(report, verdict, out)


def _parse_scenarios(names: Sequence[str]) -> tuple[ScenarioName, ...]:
    """Scenarios, checked; ``all`` is every one."""
    from medfm_compress.bench.measure.load_scenario import ScenarioName

    known: dict[str, ScenarioName] = {name: name for name in get_args(ScenarioName)}
    unknown = [name for name in names if name not in (*known, "all")]
    if unknown:
        raise InputError(f"there is no scenario {unknown[0]!r}; choose of {', '.join(known)}, or all")
    return tuple(known.values()) if "all" in names else tuple(known[name] for name in dict.fromkeys(names))


def _parse_harness(name: str) -> Harness:
    drivers: dict[str, Harness] = {"loadgen": "loadgen", "plain": "plain"}
    if name not in drivers:
        raise InputError(f"there is no harness {name!r}; choose of {', '.join(drivers)}")
    return drivers[name]


def report_as_json(report: Report, verdict: Verdict, out: Path) -> dict[str, Any]:
    """What ``--json`` prints of a bench."""
    ratios = {found.name: found.ratio for found in report.speedups}
    return {
        "report": str(out / "report.json"),
        "html": str(out / "report.html"),
        "model_digest": report.model_digest,
        "policy_sha256": report.policy_sha256,
        "verdict": verdict,
        "noise": report.noise,
        "measurements": [
            {
                "name": found.name,
                "target": found.target,
                "p50_ms": found.quantile_ms(0.5),
                "p99_ms": found.quantile_ms(0.99),
                "first_prediction_ms": found.first_prediction_ms,
                "peak_rss_bytes": found.peak_rss_bytes,
                "size_bytes": found.size_bytes,
                "speedup": ratios.get(found.name),
            }
            for found in report.measurements
        ],
        "comparisons": report.comparisons,
    }


def describe_report(report: Report, verdict: Verdict, out: Path) -> None:
    """What people read of a bench: speed, accuracy, verdict, where the report is."""
    from medfm_compress.bench.render.format import bounds, number, signed

    console.table(
        ["model", "p50 ms", "p99 ms", "faster", "first s", "peak MB", "MB"],
        [_row(report, found) for found in report.measurements],
    )
    console.say()
    console.table(
        ["bundle − teacher", "teacher", "bundle", "difference", "95% interval"],
        [
            [
                _asked(found),
                number(found.teacher.estimate),
                number(found.bundle.estimate),
                signed(found.difference.estimate),
                "too few cases" if found.too_few else bounds(found.difference, sign=True),
            ]
            for found in report.comparisons
            if found.margin is not None
        ],
    )
    console.say()
    for load in report.scenarios:
        console.say(_scenario_line(load))
    for slower in report.slowdowns:
        console.say(
            f"{slower.variant}: {slower.ratio.estimate:.3f}× the earlier bundle's latency "
            f"({slower.ratio.low:.3f} to {slower.ratio.high:.3f}, {len(slower.p50_ms)} pairs of processes)"
        )
    for reason in report.noise:
        console.say(f"noisy: {reason}")
    console.say(f"verdict: {verdict.outcome}")
    console.say(f"report:  {out / 'report.html'}")
    console.say(f"judge it with: medfm-compress gate {out / 'report.json'}")


def _asked(found: Comparison) -> str:
    from medfm_compress.bench.render.format import METRIC_NAMES

    where = f", {found.subgroup}" if found.subgroup else ""
    return f"{METRIC_NAMES[found.metric]} {found.finding}{where} ({found.variant})"


def _scenario_line(load: ScenarioResult) -> str:
    latency = load.latency_ms
    return (
        f"{load.scenario} ({load.harness}{'' if load.official else ', unofficial'}), {load.name}: "
        f"{load.queries_per_second:.1f} per second, p{100 * load.percentile:g} {latency.estimate:.2f} ms"
    )


def _row(report: Report, measurement: Measurement) -> list[str]:
    ratio = next((found.ratio.estimate for found in report.speedups if found.name == measurement.name), 1.0)
    return [
        measurement.name,
        f"{measurement.quantile_ms(0.5):.2f}",
        f"{measurement.quantile_ms(0.99):.2f}",
        f"{ratio:.1f}×",
        f"{measurement.first_prediction_ms / 1000:.2f}",
        f"{measurement.peak_rss_bytes / 1e6:.0f}",
        f"{measurement.size_bytes / 1e6:.2f}",
    ]
