"""``medfm-compress bench``: a bundle against its teacher, in one interleaved run, under a policy."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medfm_compress.cli import console
from medfm_compress.cli.arguments import Bundle, Overwrite, Policy, ReportOut, Study, Teachers
from medfm_compress.cli.command import command
from medfm_compress.cli.next_command import after_bench
from medfm_compress.cli.outputs import check_report_out
from medfm_compress.cli.teacher_options import (
    TeacherLabels,
    TeacherOutputs,
    TeacherSpec,
    TeacherWeights,
    teacher_sources,
    with_weights,
)
from medfm_compress.step_settings import BenchStep

if TYPE_CHECKING:
    from medfm_compress.bench.measure.load_scenario import ScenarioResult
    from medfm_compress.bench.report import Report
    from medfm_compress.bench.types.evaluation import Comparison
    from medfm_compress.bench.types.measurement import BatchTiming, Measurement
    from medfm_compress.bench.types.verdict import Verdict

_FIXED = ("load.inputs", "load.seed", "load.threads", "load.warm_up_s", "load.timeout_s")


@command(skip=("plan.threads", *_FIXED))
def bench(
    bundle: Bundle,
    step: BenchStep,
    teacher: Teachers,
    study: Study,
    policy: Policy,
    out: ReportOut,
    overwrite: Overwrite = False,
    teacher_weights: TeacherWeights = None,
    teacher_spec: TeacherSpec = None,
    teacher_labels: TeacherLabels = None,
    teacher_outputs: TeacherOutputs = None,
) -> None:
    """Evaluate and time a bundle against its teacher; the report goes to a folder, the verdict to the gate.

    The teacher runs in PyTorch, because everything is held against it, on a GPU too where anything else runs there;
    name torch:cpu alone among its engines to leave its ONNX Runtime and OpenVINO rows out. One that is an ONNX file
    runs in ONNX Runtime alone. Variants for a device that this machine lacks are left out and named, unless a target
    names the device, which is refused.
    """
    check_report_out(out, overwrite)
    from medfm_compress import steps
    from medfm_compress.bench.gate.gate import judge
    from medfm_compress.bench.gate.policy_file import load_policy
    from medfm_compress.teacher_baselines import require_toolchain

    require_toolchain()
    sources = with_weights(teacher_sources(teacher, teacher_spec, teacher_labels, teacher_outputs), teacher_weights)
    report = steps.bench(study, sources, bundle, load_policy(policy), step, console.progress, out)
    verdict = judge(report)
    console.emit(
        lambda: report_as_json(report, verdict, out), lambda: print_report(report, verdict, out, policy, bundle)
    )


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
        "left_out": report.left_out,
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
                **_of_gpu(row),
            }
            for row in report.measurements
        ],
        "comparisons": report.comparisons,
    }


def print_report(
    report: Report, verdict: Verdict, out: Path, policy: Path, bundle: Path, *, recorded: bool = False
) -> None:
    """What people read of a bench: speed, accuracy, verdict (``recorded`` in the bundle or not yet), the report."""
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
    _print_gpu(report)
    _print_batches(report)
    for name, reason in report.left_out.items():
        console.say(f"left out: {name}: {reason}")
    for reason in report.noise:
        console.say(f"noisy: {reason}")
    console.say(f"verdict: {verdict.outcome}")
    for line in _meaning(verdict, recorded=recorded):
        console.say(f"  {line}")
    if waived := not_judged(verdict):
        console.say(f"  {waived}")
    console.say(f"report:  {out / 'report.html'}")
    again = "judge it again with" if recorded else "judge it with"
    console.say(f"{again}: {after_bench(out / 'report.json', policy, bundle)}")


def _meaning(verdict: Verdict, *, recorded: bool) -> list[str]:
    """What the verdict means and what to do next; not a pass: with the first requirement that is in the way."""
    from medfm_compress.bench.gate.gate import DEVICE_MISSING

    if verdict.outcome == "pass":
        which = "every requirement that was judged" if not_judged(verdict) else "every requirement of the policy"
        where = ", and the bundle records it" if recorded else "; the command below records it in the bundle"
        return [f"{which} holds on these cases{where}"]
    found = [
        (judged.variant, check)
        for judged in verdict.variants
        for check in judged.checks
        if check.outcome == verdict.outcome
    ]
    here = [entry for entry in found if DEVICE_MISSING not in entry[1].reason]
    variant, check = (here or found)[0]
    others = sum(check.outcome != "pass" for judged in verdict.variants for check in judged.checks) - 1
    undecided = "these cases do not tell, so it may not ship yet" if here else "a device is missing here"
    meaning = "it must not ship" if verdict.outcome == "fail" else undecided
    by_teacher = check.name.endswith(" of the teacher")
    remedy = (
        "it is the teacher that falls short: give a better one"
        if by_teacher and verdict.outcome == "fail"
        else "collect more test patients: these do not tell whether the teacher is good enough; do not lower its floor"
        if by_teacher
        else "bench the bundle on a machine that has the device, or leave its variant out; the others may be used"
        if not here
        else "make the loss smaller (a larger student, more training, stricter limits for INT8), and evaluate once more"
        if verdict.outcome == "fail"
        else "collect more test patients, or make the bundle more like its teacher; do not widen the margin"
    )
    more = f" ({others} more, all by the command below)" if others else ""
    return [f"{meaning}: {variant}: {check.name}: {check.reason}{more}", f"next: {remedy}"]


def not_judged(verdict: Verdict) -> str:
    """One line on the comparisons that the policy does not judge in groups with too few cases; empty without any."""
    from medfm_compress.bench.gate.gate import NOT_JUDGED

    waived = [note.removeprefix(NOT_JUDGED) for note in verdict.notes if note.startswith(NOT_JUDGED)]
    return f"{NOT_JUDGED}{'; '.join(waived)}" if waived else ""


def _name(comparison: Comparison) -> str:
    from medfm_compress.bench.render.format import METRIC_NAMES

    where = f", {comparison.subgroup}" if comparison.subgroup else ""
    finding = comparison.finding or "all labels together"
    return f"{METRIC_NAMES[comparison.metric]} {finding}{where} ({comparison.variant})"


def _scenario_line(load: ScenarioResult) -> str:
    latency = load.latency_ms
    return (
        f"{load.scenario} ({load.harness}{'' if load.official else ', unofficial'}), {load.name}: "
        f"{load.queries_per_second:.1f} per second, p{100 * load.percentile:g} {latency.estimate:.2f} ms"
    )


def _row(report: Report, measurement: Measurement) -> list[str]:
    ratio = next((speedup.ratio.estimate for speedup in report.speedups if speedup.name == measurement.name), None)
    return [
        measurement.name,
        f"{measurement.quantile_ms(0.5):.2f}",
        f"{measurement.quantile_ms(0.99):.2f}",
        f"{ratio:.1f}×" if ratio else "1.0×" if measurement is report.measurements[0] else "–",
        f"{measurement.first_prediction_ms / 1000:.2f}",
        f"{measurement.peak_rss_bytes / 1e6:.0f}",
        f"{measurement.size_bytes / 1e6:.2f}",
    ]


def _of_gpu(row: Measurement) -> dict[str, Any]:
    """What ``--json`` prints of what ran on a GPU, and of batches; nothing of what was not measured."""
    shown: dict[str, Any] = {}
    if row.device_ms:
        shown["device_p50_ms"] = statistics.median(row.device_ms)
    if row.peak_gpu_bytes:
        shown["peak_gpu_bytes"] = row.peak_gpu_bytes
    if row.gpu_states:
        shown["gpu"] = row.gpu_states[-1]
        shown["throttling"] = row.throttling
    if row.batches:
        shown["batches"] = [_as_json(timing) for timing in row.batches]
    return shown


def _as_json(timing: BatchTiming) -> dict[str, Any]:
    if timing.reason:
        return {"batch": timing.batch, "reason": timing.reason}
    return {"batch": timing.batch, "p50_ms": timing.p50_ms, "images_per_s": timing.images_per_s}


def _print_gpu(report: Report) -> None:
    """A table of what ran on a GPU; nothing where nothing did."""
    from medfm_compress.bench.render.gpu_text import GPU_COLUMNS, gpu_cells

    rows = [[row.name, *gpu_cells(row)] for row in report.measurements if row.device_ms or row.gpu_states]
    if rows:
        console.table(["on the GPU", *GPU_COLUMNS], rows)
        console.say()


def _print_batches(report: Report) -> None:
    """A table of batches; nothing where none were timed."""
    from medfm_compress.bench.render.gpu_text import BATCH_COLUMNS, batch_cells

    rows = [[row.name, *batch_cells(timing)] for row in report.measurements for timing in row.batches]
    if rows:
        console.table(["model", *BATCH_COLUMNS], rows)
        console.say()
