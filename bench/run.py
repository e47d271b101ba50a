"""One bench run: a bundle against its teacher, on one study and one machine, under a policy declared beforehand."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from medfm_compress.bench.compare import compare
from medfm_compress.bench.evaluate import EvaluationTable
from medfm_compress.bench.evaluation_log import LoggedEvaluation, log_evaluation
from medfm_compress.bench.gate import judge
from medfm_compress.bench.html import render_html
from medfm_compress.bench.inference import Folders, evaluate_contender, image_files, labelled_cases
from medfm_compress.bench.machine import Machine, describe_machine
from medfm_compress.bench.measure import Contender, Plan, Progress, measure
from medfm_compress.bench.operating_points import choose_operating_points
from medfm_compress.bench.policy import LoadedPolicy
from medfm_compress.bench.report import REPORT_SCHEMA_VERSION, TEACHER, Report, Speedup, save_report
from medfm_compress.bench.speedup import round_spread, speedup
from medfm_compress.bench.types import Comparison, Evaluation, Measurement
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Study
from medfm_compress.runtime.bundle import Bundle, utc_date
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.files import write_atomically
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.manifest import Variant
from medfm_compress.runtime.sessions.protocol import SessionRef
from medfm_compress.runtime.task import OperatingPoint, Task

REPORT_JSON = "report.json"
REPORT_HTML = "report.html"
VARIANT_OPENER = "medfm_compress.runtime.sessions.table:open_bundle_variant"
_NOISY_SPREAD = 0.10


class TeacherRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The teacher, as a session that a fresh process opens.

    Attributes:
        name: architecture, for the report.
        session: how to open it, on as many threads as the plan says.
        spec: its own preprocessing.
        task: its own temperature and operating points; without points they are chosen here, on validation cases.
        size_bytes: of its weights.
        licence: of its weights.
    """

    name: str
    session: SessionRef
    spec: ImageSpec
    task: Task
    size_bytes: int
    licence: str = ""


class BenchOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do beyond the necessary.

    Attributes:
        plan: rounds, threads, warm-up.
        targets: measure only variants whose ``backend:device[:precision]`` begins with one of these; empty takes all.
        others: further contenders, measured and not evaluated, e.g. the teacher in ONNX Runtime.
        split: evaluated split.
        files: images for the end-to-end time.
        cache_dir: where prepared images are kept between runs; none keeps nothing.
    """

    plan: Plan = Plan()
    targets: tuple[str, ...] = ()
    others: tuple[Contender, ...] = ()
    split: str = "test"
    files: int = 4
    cache_dir: Path | None = None


_DEFAULT_OPTIONS = BenchOptions()


def bench_bundle(
    bundle_path: str | Path,
    teacher: TeacherRef,
    study: Study,
    policy: LoadedPolicy,
    out_dir: str | Path,
    options: BenchOptions = _DEFAULT_OPTIONS,
    progress: Progress | None = None,
) -> Report:
    """Evaluate, measure and compare; write ``report.json`` and ``report.html`` into ``out_dir``.

    The evaluation is logged in ``test-evaluations.jsonl`` there, with the policy's hash, before it begins.

    Raises:
        InputError: nothing to measure, or a contender that cannot run.
        BundleRefused: the bundle is damaged.
        StudyError: no labelled case in the split, or other labels than the models have.
    """
    tell = progress or _silent
    bundle, cases = Bundle.open(bundle_path), labelled_cases(study, options.split)
    machine, fingerprint = describe_machine(), study_fingerprint(study)
    files = image_files(study, cases, options.files)
    variants = variant_contenders(bundle, options, files)
    with tempfile.TemporaryDirectory(prefix="medfm-bench-") as temporary:
        folder = Folders(Path(temporary), options.cache_dir or Path(temporary))
        candidate = _teacher_contender(teacher, files)
        candidate = _with_points(candidate, bundle.manifest.task, study, options.plan, folder, tell)
        log_evaluation(
            Path(out_dir),
            LoggedEvaluation(
                date=utc_date(),
                split=options.split,
                cases=len(cases),
                policy_sha256=policy.sha256,
                model_digest=bundle.model_digest,
                study_fingerprint=fingerprint,
            ),
        )
        evaluations = [
            evaluate_contender(contender, study, cases, options.plan, folder, tell)
            for contender in (candidate, *variants)
        ]
    others = [msgspec.structs.replace(other, files=files) for other in options.others]
    measurements = measure([candidate, *variants, *others], options.plan, tell)
    tell("compare")
    report = _report(bundle, policy, machine, evaluations, measurements)
    report = msgspec.structs.replace(
        report,
        study_fingerprint=fingerprint,
        split=options.split,
        teacher_name=teacher.name,
        teacher_operating_points=candidate.task.operating_points,
    )
    write_report(report, out_dir)
    return report


def write_report(report: Report, out_dir: str | Path) -> None:
    """Write ``report.json`` and, with the gate's verdict on it, ``report.html``."""
    save_report(report, Path(out_dir) / REPORT_JSON)
    write_atomically(Path(out_dir) / REPORT_HTML, render_html(report, judge(report)).encode())


def variant_contenders(bundle: Bundle, options: BenchOptions, files: tuple[str, ...]) -> tuple[Contender, ...]:
    """A contender for each variant that ``options.targets`` let through; raises InputError where none is left."""
    chosen = [variant for variant in bundle.manifest.variants if _fits(variant, options.targets)]
    if not chosen:
        there = ", ".join(variant.target for variant in bundle.manifest.variants)
        raise InputError(f"no variant fits the targets {', '.join(options.targets)}; the bundle has {there}")
    return tuple(
        Contender(
            name=variant.name,
            session=SessionRef(
                opener=VARIANT_OPENER,
                arguments={
                    "bundle": str(bundle.path.resolve()),
                    "variant": variant.name,
                    "threads": options.plan.threads,
                },
            ),
            spec=bundle.manifest.image_spec,
            task=bundle.manifest.task,
            size_bytes=bundle.variant_bytes(variant),
            files=files,
        )
        for variant in chosen
    )


def noise_reasons(machine: Machine, measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Why the timings should not be trusted; empty on a quiet machine."""
    reasons = []
    if machine.busy:
        reasons.append(f"the load was {machine.load_average:.1f} when the measurement began")
    for measurement in measurements:
        spread = round_spread(measurement)
        if spread > _NOISY_SPREAD:
            reasons.append(f"the rounds' medians of {measurement.name} spread by {100 * spread:.0f}%")
    return tuple(reasons)


def _fits(variant: Variant, targets: tuple[str, ...]) -> bool:
    return not targets or any(f"{variant.target}:".startswith(f"{target}:") for target in targets)


def _teacher_contender(teacher: TeacherRef, files: tuple[str, ...]) -> Contender:
    return Contender(
        name=TEACHER,
        session=teacher.session,
        spec=teacher.spec,
        task=teacher.task,
        size_bytes=teacher.size_bytes,
        files=files,
    )


def _with_points(
    contender: Contender, task: Task, study: Study, plan: Plan, folder: Folders, tell: Progress
) -> Contender:
    """The teacher with operating points by the bundle's rule, if it lacks them.

    They are chosen on its own validation scores. A study without validation cases leaves only the bundle's thresholds.
    """
    if contender.task.operating_points or not task.operating_points:
        return contender
    cases = tuple(case for case in study.split("val") if case.target)
    points: tuple[OperatingPoint, ...] = task.operating_points
    if cases:
        evaluation = evaluate_contender(contender, study, cases, plan, folder, tell)
        points = choose_operating_points(evaluation, rule=task.operating_points[0].rule)
    return msgspec.structs.replace(contender, task=msgspec.structs.replace(contender.task, operating_points=points))


def _report(
    bundle: Bundle,
    policy: LoadedPolicy,
    machine: Machine,
    evaluations: Sequence[Evaluation],
    measurements: tuple[Measurement, ...],
) -> Report:
    manifest = bundle.manifest
    return Report(
        schema_version=REPORT_SCHEMA_VERSION,
        bundle_name=manifest.name,
        model_digest=manifest.model_digest,
        study_fingerprint="",
        split="",
        policy=policy.policy,
        policy_sha256=policy.sha256,
        task=manifest.task,
        teacher_name="",
        evaluations=tuple(EvaluationTable.from_evaluation(evaluation) for evaluation in evaluations),
        measurements=measurements,
        comparisons=_comparisons(evaluations, policy),
        speedups=tuple(
            Speedup(name=found.name, baseline=TEACHER, ratio=speedup(measurements[0], found))
            for found in measurements[1:]
        ),
        machine=machine,
        noise=noise_reasons(machine, measurements),
        provenance=manifest.provenance,
        intended_use=manifest.intended_use,
        created=utc_date(),
        shipped=tuple(variant.name for variant in manifest.variants),
    )


def _comparisons(evaluations: Sequence[Evaluation], policy: LoadedPolicy) -> tuple[Comparison, ...]:
    teacher, *variants = evaluations
    return tuple(found for variant in variants for found in compare(teacher, variant, policy.policy))


def _silent(_: str) -> None:
    return None
