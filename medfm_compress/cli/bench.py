"""``medfm-compress bench``: a bundle against its teacher, in one interleaved run, under a policy."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from medfm_compress.bench.options import BenchOptions
from medfm_compress.bench.types.target import Target
from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle, Policy, ReportOut, Study, Teacher
from medfm_compress.cli.command import command
from medfm_compress.cli.targets import split_targets
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    from medfm_compress.bench.measure.latency import ModelUnderTest
    from medfm_compress.bench.measure.load_scenario import ScenarioResult
    from medfm_compress.bench.report import Report
    from medfm_compress.bench.types.evaluation import Comparison
    from medfm_compress.bench.types.measurement import Measurement
    from medfm_compress.bench.types.verdict import Verdict

TORCH = "torch"
_FIXED = ("load.inputs", "load.seed", "load.threads", "load.warm_up_s", "load.timeout_s")


@command(defaults={"harness": "loadgen"}, skip=("others", "split", "files", "plan.threads", *_FIXED))
def bench(
    bundle: Bundle, options: BenchOptions, teacher: Teacher, study: Study, policy: Policy, out: ReportOut
) -> None:
    """Evaluate and time a bundle against its teacher; the report goes to a folder, the verdict to the gate.

    The teacher always runs in PyTorch, because everything is held against it; name torch:cpu alone among its engines
    to leave its ONNX Runtime and OpenVINO rows out.
    """
    from medfm_compress.bench.gate.gate import judge
    from medfm_compress.bench.gate.policy_file import load_policy
    from medfm_compress.bench.run import bench_bundle
    from medfm_compress.data.open import open_study
    from medfm_compress.runtime.bundle.bundle import Bundle as OpenedBundle
    from medfm_compress.teacher_baselines import require_toolchain, teacher_ref

    declared = load_policy(policy)
    targets, threads = parse_targets(options.targets)
    require_toolchain()
    rules = OpenedBundle.open(bundle).manifest.image_spec.dicom
    reference, cases = teacher_ref(teacher, threads), open_study(study, dicom_rules=rules)
    with tempfile.TemporaryDirectory(prefix="medfm-teacher-") as scratch:
        options = msgspec.structs.replace(
            options,
            plan=msgspec.structs.replace(options.plan, threads=threads),
            targets=tuple(target for target in targets if not target.startswith(TORCH)),
            others=_teacher_rows(teacher, threads, Path(scratch), targets),
        )
        report = bench_bundle(bundle, reference, cases, declared, out, options, console.progress)
    verdict = judge(report)
    console.emit(lambda: report_as_json(report, verdict, out), lambda: print_report(report, verdict, out))


def parse_targets(targets: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Targets, without their threads, and those threads.

    Raises:
        InputError: a target that is unknown or no CPU, or different numbers of threads.
    """
    for target in targets:
        if Target.parse(target).device != "cpu":
            raise InputError(f"target {target!r}: bench measures on the CPU; write {target.split(':')[0]}:cpu")
    return split_targets(targets)


def _teacher_rows(teacher: Path, threads: int, scratch: Path, targets: tuple[str, ...]) -> tuple[ModelUnderTest, ...]:
    """The teacher in the engines that ``targets`` name; in all of them where they name none."""
    from medfm_compress.teacher_baselines import ENGINES, teacher_in_engines

    named = {target.split(":")[0] for target in targets}
    engines = tuple(engine for engine in ENGINES if not named or engine in named)
    if not engines:
        return ()
    console.progress("export the teacher for other engines")
    return teacher_in_engines(teacher, threads, scratch, engines)


def report_as_json(report: Report, verdict: Verdict, out: Path) -> dict[str, Any]:
    """What ``--json`` prints of a bench."""
    ratios = {speedup.name: speedup.ratio for speedup in report.speedups}
    return {
        "report": str(out / "report.json"),
        "html": str(out / "report.html"),
        "model_digest": report.model_digest,
        "policy_sha256": report.policy_sha256,
        "verdict": verdict,
        "noise": report.noise,
        "measurements": [
            {
                "name": row.name,
                "target": row.target,
                "p50_ms": row.quantile_ms(0.5),
                "p99_ms": row.quantile_ms(0.99),
                "first_prediction_ms": row.first_prediction_ms,
                "peak_rss_bytes": row.peak_rss_bytes,
                "size_bytes": row.size_bytes,
                "speedup": ratios.get(row.name),
            }
            for row in report.measurements
        ],
        "comparisons": report.comparisons,
    }


def print_report(report: Report, verdict: Verdict, out: Path) -> None:
    """What people read of a bench: speed, accuracy, verdict, where the report is."""
    from medfm_compress.bench.render.format import bounds, number, signed

    console.table(
        ["model", "p50 ms", "p99 ms", "faster", "first s", "peak MB", "MB"],
        [_row(report, measurement) for measurement in report.measurements],
    )
    console.say()
    console.table(
        ["bundle − teacher", "teacher", "bundle", "difference", "95% interval"],
        [
            [
                _name(comparison),
                number(comparison.teacher.estimate),
                number(comparison.bundle.estimate),
                signed(comparison.difference.estimate),
                "too few cases" if comparison.too_few else bounds(comparison.difference, sign=True),
            ]
            for comparison in report.comparisons
            if comparison.margin is not None
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


def _name(comparison: Comparison) -> str:
    from medfm_compress.bench.render.format import METRIC_NAMES

    where = f", {comparison.subgroup}" if comparison.subgroup else ""
    return f"{METRIC_NAMES[comparison.metric]} {comparison.finding}{where} ({comparison.variant})"


def _scenario_line(load: ScenarioResult) -> str:
    latency = load.latency_ms
    return (
        f"{load.scenario} ({load.harness}{'' if load.official else ', unofficial'}), {load.name}: "
        f"{load.queries_per_second:.1f} per second, p{100 * load.percentile:g} {latency.estimate:.2f} ms"
    )


def _row(report: Report, measurement: Measurement) -> list[str]:
    ratio = next((speedup.ratio.estimate for speedup in report.speedups if speedup.name == measurement.name), 1.0)
    return [
        measurement.name,
        f"{measurement.quantile_ms(0.5):.2f}",
        f"{measurement.quantile_ms(0.99):.2f}",
        f"{ratio:.1f}×",
        f"{measurement.first_prediction_ms / 1000:.2f}",
        f"{measurement.peak_rss_bytes / 1e6:.0f}",
        f"{measurement.size_bytes / 1e6:.2f}",
    ]
