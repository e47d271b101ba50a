"""Steps that judge a bundle: report, where it looks, verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.steps.studies import open_cases, open_cases_of

if TYPE_CHECKING:
    from medfm_compress.bench.gate.policy_file import LoadedPolicy
    from medfm_compress.bench.report import Report
    from medfm_compress.bench.types.verdict import Verdict
    from medfm_compress.compress.explain.explain import Explained
    from medfm_compress.compress.explain.options import ExplainOptions
    from medfm_compress.compress.networks.model import Model
    from medfm_compress.compress.teachers.open import TeacherSource
    from medfm_compress.runtime.bundle.bundle import Bundle
    from medfm_compress.runtime.task import Task
    from medfm_compress.step_settings import BenchStep


def bench(
    study: Path,
    teachers: tuple[TeacherSource, ...],
    bundle: Path,
    policy: LoadedPolicy,
    step: BenchStep,
    progress: Progress,
    out: Path,
) -> Report:
    """Evaluate and time a bundle against its teacher, with the teacher's rows in the other engines."""
    from medfm_compress.bench.models import chosen_variants, unavailable_variants
    from medfm_compress.bench.options import BenchOptions
    from medfm_compress.bench.run import bench_bundle
    from medfm_compress.bench.types.target import check_threads, is_torch, split_targets
    from medfm_compress.runtime.bundle.bundle import Bundle
    from medfm_compress.teacher_baselines import Reference, check_devices, row_targets, teacher_rows

    targets, target_threads = split_targets(step.targets)
    check_devices(targets)
    threads = target_threads or step.plan.threads
    check_threads(threads)
    opened, of_variants = Bundle.open(bundle), tuple(target for target in targets if not is_torch(target))
    lacking = unavailable_variants(opened, of_variants)
    on_gpu = any(v.device != "cpu" for v in chosen_variants(opened, of_variants) if v.name not in lacking)
    cases = open_cases_of(opened.manifest.task, study, progress, opened.manifest.image_spec.dicom)
    teacher = Reference(teachers, cases.task, threads)
    with scratch_folder("medfm-teacher-") as scratch:
        options = BenchOptions(
            plan=msgspec.structs.replace(step.plan, threads=threads),
            targets=of_variants,
            others=teacher_rows(teacher, threads, scratch, row_targets(targets, on_gpu=on_gpu), progress),
            external_models=tuple(map(Path, step.external_models)),
            baseline=Path(step.baseline) if step.baseline else None,
            pairs=step.pairs,
            scenarios=step.scenarios,
            harness=step.harness,
            load=step.load,
            cache_dir=Path(step.cache) if step.cache else None,
            batch_sweep=step.batch_sweep,
        )
        return bench_bundle(bundle, teacher.ref, cases, policy, out, options, progress)


def explain(
    bundle: Path,
    teachers: tuple[TeacherSource, ...],
    study: Path,
    options: ExplainOptions,
    progress: Progress,
    out: Path,
    student: Path | None = None,
) -> Explained:
    """Compare where teacher and student look; the teacher has to be a network, whose weights the floor draws anew.

    With ``device``, which compares maps that networks give themselves, it may be a bundle as well, without a floor.
    """
    from medfm_compress.compress.explain.explain import explain as compare_maps
    from medfm_compress.runtime.bundle.bundle import Bundle

    manifest = Bundle.open(bundle).manifest
    if manifest.task.kind == "anomaly":
        raise ModelError(
            f"{manifest.name} gives an anomaly score, and explain compares where findings come from; its own map shows "
            "where an image is unusual: medfm-compress run --heatmap"
        )
    cases = open_cases(study, progress, manifest.image_spec.dicom)
    teacher = _explainable(teachers, cases.task)
    told = (
        (teacher.path.name, teacher.manifest.told) if isinstance(teacher, Bundle) else (teacher.name, teacher.columns)
    )
    for whose, name, columns in (("bundle", manifest.name, manifest.told), ("teacher", *told)):
        if columns:
            raise ModelError(
                f"{whose} {name} takes columns beside the image ({', '.join(column.name for column in columns)}), and "
                "explain gives it none; give a teacher and a bundle of the image alone"
            )
    return compare_maps(bundle, teacher, cases, out, options, student_folder=student, progress=progress)


def _explainable(teachers: tuple[TeacherSource, ...], task: Task) -> Model | Bundle:
    """The one network, or bundle, that ``teachers`` name."""
    from medfm_compress.runtime.bundle.bundle import Bundle

    if len(teachers) == 1 and teachers[0].source.lower().endswith(".medfm"):
        return Bundle.open(teachers[0].source)
    for source in teachers:
        if source.source.lower().endswith(".onnx"):
            raise ModelError(
                f"{source.source} is an ONNX teacher, which cannot be explained: agreement is held against the teacher "
                "with random weights, and an ONNX file's cannot be drawn; give the model folder, or the timm, "
                "torchvision or hub network, that it was exported from, or with --method device its bundle, if it was "
                "exported with --heat-map"
            )
    from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
    from medfm_compress.compress.teachers.session import open_live_teacher

    teacher = open_live_teacher(teachers, task)
    if not isinstance(teacher, ModuleTeacher):
        raise ModelError(
            f"explain holds agreement against the teacher with random weights, and {teacher.card.name} is no single "
            "network whose weights can be drawn; give a model folder, or a timm, torchvision or hub network"
        )
    return teacher.model


def gate(report: Path, policy: LoadedPolicy, bundle: Path, out: Path) -> Verdict:
    """Judge a report by the policy that it was made under, and write a copy of the bundle that carries the verdict."""
    from medfm_compress.bench.gate.judge_report import JudgeRequest, judge_report, record_verdicts
    from medfm_compress.bench.report import MAX_REPORT_BYTES

    data = read_regular(report, MAX_REPORT_BYTES, "report")
    decision = judge_report(JudgeRequest(report, data, policy, bundle))
    record_verdicts(decision, data, bundle, out)
    return decision.verdict
