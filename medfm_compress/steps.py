"""The steps of the job between files: what a command does, and what `pipeline` strings together."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from medfm_compress.data.colour_kind import case_colour, colour_of, study_colour_kind
from medfm_compress.data.open import open_study, open_study_of
from medfm_compress.data.splitting import SplitPlan, split_study
from medfm_compress.data.stain_fit import with_stain
from medfm_compress.data.study import Study
from medfm_compress.data.table import write_table
from medfm_compress.early_refusals import refuse_misspelt, refuse_to_overwrite, refuse_to_replace_inputs
from medfm_compress.onnx_model import CaseSource, export_onnx_model
from medfm_compress.recipe import ExportStep
from medfm_compress.runtime.atomic_write import replacing
from medfm_compress.runtime.errors import InputError, ModelError, StudyError
from medfm_compress.runtime.image_spec import DicomRules
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.task import Task

if TYPE_CHECKING:
    from medfm_compress.bench.gate.policy_file import LoadedPolicy
    from medfm_compress.bench.report import Report
    from medfm_compress.bench.types.verdict import Verdict
    from medfm_compress.compress.anomaly.options import AnomalyFit, EncoderSource
    from medfm_compress.compress.explain.explain import Explained
    from medfm_compress.compress.explain.options import ExplainOptions
    from medfm_compress.compress.networks.encoder_folder import StoredEncoder
    from medfm_compress.compress.networks.model import Model
    from medfm_compress.compress.pretrain.pretrain import Pretrained
    from medfm_compress.compress.pruning.options import PruneOptions
    from medfm_compress.compress.pruning.record import PruningRecord
    from medfm_compress.compress.quantization.options import QuantizeOptions
    from medfm_compress.compress.quantization.quantize_bundle import Quantized
    from medfm_compress.compress.students.auto_select import Auto, Choice
    from medfm_compress.compress.teachers.open import TeacherSource
    from medfm_compress.compress.teachers.teacher import TeacherCard
    from medfm_compress.recipe import (
        BenchStep,
        DistillStep,
        EmbedStep,
        FinetuneStep,
        PretrainStep,
    )
    from medfm_compress.runtime.bundle.bundle import Bundle
    from medfm_compress.runtime.bundle.manifest import Manifest


def prepare_study(source: Path, plan: SplitPlan | None, progress: Progress, out: Path) -> None:
    """Write the study's table, with new splits where a plan is given.

    Raises:
        StudyError: no labelled test split, or splits that leak.
    """
    study = _open(source, progress)
    if plan is not None:
        result = split_study(study, plan)
        study = result.study
        if result.dropped:
            progress(f"left out {len(result.dropped)} images that share a patient or an image with the test split")
    for name in ("train", "val", "test"):
        count = sum(1 for case in study.split(name) if case.target)
        progress(f"{name}: {count} labelled images")
        if count == 0:
            raise StudyError(f"{source} has no labelled images in split {name!r}; add a 'split:' section to the recipe")
    write_table(study, out)


def prepare_teacher(study: Path, step: FinetuneStep, progress: Progress, out: Path) -> None:
    """A teacher as a model folder at ``out``: a copy of a given one, or one that is trained here."""
    from medfm_compress.compress.networks.model import load_model, save_model

    if step.folder:
        save_model(load_model(step.folder), out)
    else:
        finetune(study, step, progress, out)


def pretrain(study: Path, step: PretrainStep, progress: Progress, out: Path, *, overwrite: bool = True) -> Pretrained:
    """Build the network that ``step`` names and pre-train it on images without labels."""
    refuse_to_overwrite(out, overwrite)
    refuse_misspelt(step.model)
    import torch

    from medfm_compress.compress.networks.build import build_model
    from medfm_compress.compress.pretrain.images import choose_images
    from medfm_compress.compress.pretrain.pretrain import pretrain as train_backbone

    studies = tuple(_open(path, progress, step.dicom) for path in (study, *map(Path, step.more)))
    torch.manual_seed(step.training.seed)
    model = build_model(
        step.model,
        Task(kind="binary", labels=("absent", "present")),  # a classifier has to have some; it is not saved
        size_px=step.image_size,
        colour=step.colour or case_colour(studies[0], choose_images(studies).training[0][1][0]),
        weights=Path(step.weights) if step.weights else None,
    )
    spec = msgspec.structs.replace(model.spec, dicom=step.dicom)
    model = dataclasses.replace(
        model, spec=spec, licence=step.licence or model.licence, intended_use=step.intended_use or model.intended_use
    )
    _warn_of_modality(studies[0], step.training.modality, progress)
    return train_backbone(studies, model, step.training, out, progress, step.masking)


def finetune(study: Path, step: FinetuneStep, progress: Progress, out: Path, *, overwrite: bool = True) -> Model:
    """Build the teacher that ``step`` names and train it on the study's train split."""
    refuse_to_overwrite(out, overwrite)
    refuse_misspelt(step.model)
    import torch

    from medfm_compress.compress.networks.architecture import parse_arguments
    from medfm_compress.compress.networks.build import build_model
    from medfm_compress.compress.training.dataset import task_of
    from medfm_compress.compress.training.finetune import finetune as train_teacher

    cases = _open(study, progress, step.dicom, step.structure)
    torch.manual_seed(step.training.seed)
    model = build_model(
        step.model,
        task_of(cases),
        size_px=step.image_size,
        colour=step.colour or colour_of(cases),
        weights=Path(step.weights) if step.weights else None,
        arguments=parse_arguments(step.network_argument),
    )
    spec = with_stain(msgspec.structs.replace(model.spec, dicom=step.dicom), step.stain)
    model = dataclasses.replace(
        model, spec=spec, licence=step.licence or model.licence, intended_use=step.intended_use or model.intended_use
    )
    if step.columns:
        model = _with_columns(model, step, cases, progress)
    if step.training.epochs:
        _warn_of_modality(cases, step.training.modality, progress)
    published = Path(step.weights).is_file() or step.model.startswith("hf-hub:")  # a folder is `pretrain`'s
    training = step.training.starting(pretrained=published)
    return train_teacher(cases, model, training, out, progress, balanced=step.balanced, label_loss=step.label_loss)


def distill(
    study: Path,
    teachers: tuple[TeacherSource, ...],
    step: DistillStep,
    progress: Progress,
    out: Path,
    on_choice: Callable[[Choice], None] = lambda _: None,
    *,
    overwrite: bool = True,
) -> Model:
    """Distil the teachers' mean into the student that ``step`` names; ``on_choice`` gets what ``auto`` chose."""
    refuse_to_replace_inputs(out, teachers, step.student)
    refuse_to_overwrite(out, overwrite)
    refuse_misspelt(step.student, *(one.source for one in teachers if one.source.startswith("timm:")))
    import torch

    from medfm_compress.compress.distillation.distill import distill as train_student
    from medfm_compress.compress.distillation.teacher_metric import check_teacher
    from medfm_compress.compress.students.build_student import check_student_name
    from medfm_compress.compress.teachers.label_mapping import unmapped
    from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
    from medfm_compress.compress.teachers.open import open_teacher

    check_student_name(step.student)
    auto = _auto(step, progress, out, on_choice)
    structures = step.structure or _structures((*(one.source for one in teachers), step.student))
    cases = _open(study, progress, structures=structures)
    _warn_of_modality(cases, step.training.modality, progress)
    teacher = open_teacher(teachers, task_of(cases), step.training, step.distillation.teacher_precision)
    torch.manual_seed(step.training.seed)
    own = unmapped(teacher.model) if isinstance(teacher, ModuleTeacher) else None
    student = _student(teacher.card, own, step, auto)
    if step.columns:
        student = _with_columns(student, step, cases, progress)
    if teacher.card.told and not student.columns:
        beside = ", ".join(column.name for column in teacher.card.told)
        progress(f"the student sees the image alone, its teacher also {beside}; --columns gives them to the student")
    rules = teacher.card.spec.dicom
    more = tuple(_open(Path(path), progress, rules) for path in step.more)
    studies = (open_study(study, dicom_rules=rules, structures=structures), *more)
    check_teacher(studies, teacher, out, progress, step.distillation)
    return train_student(studies, teacher, student, step.training, out, progress, step.distillation)


def _with_columns(model: Model, step: FinetuneStep | DistillStep, cases: Study, progress: Progress) -> Model:
    """``model`` as a network of images and of the columns that ``step`` names; what was measured for them is said."""
    from medfm_compress.compress.networks.fusion.network import with_fusion
    from medfm_compress.data.columns_file import describe, load_columns

    columns = load_columns(step.columns, cases)
    for column in columns:
        progress(f"column {describe(column)}")
    return with_fusion(model, columns, step.fusion)


def _structures(models: tuple[str, ...]) -> tuple[str, ...]:
    """What a model folder among ``models`` draws; nothing where none is a segmentation."""
    from medfm_compress.compress.networks.model import CARD, load_model_card

    tasks = [load_model_card(folder).task for folder in models if Path(folder, CARD).is_file()]
    return next((task.labels for task in tasks if task.is_dense), ())


def _auto(step: DistillStep, progress: Progress, out: Path, on_choice: Callable[[Choice], None]) -> Auto | None:
    """What student ``auto`` needs; None for another, which has neither budget nor target."""
    from medfm_compress.compress.latency.latency_goal import parse_goal
    from medfm_compress.compress.students.auto_select import AUTO, Auto

    if step.student == AUTO:
        goal = parse_goal(step.max_latency_ms, step.target, 1)
        return Auto(goal, out / "training", lambda line: progress(f"student: {line}"), on_choice)
    plain = type(step)(student=step.student)
    if (step.max_latency_ms, step.target) != (plain.max_latency_ms, plain.target):
        raise InputError(
            f"max_latency and target choose a student, and --student names {step.student!r}; "
            "give --student auto, or leave them out"
        )
    return None


def _student(teacher: TeacherCard, own: Model | None, step: DistillStep, auto: Auto | None) -> Model:
    """The student with the teacher's task and, but for its size, the teacher's spec."""
    from medfm_compress.compress.networks.architecture import parse_arguments
    from medfm_compress.compress.students.build_student import build_student

    spec = teacher.spec
    if step.image_size:
        spec = msgspec.structs.replace(spec, height_px=step.image_size, width_px=step.image_size)
    weights = Path(step.weights) if step.weights else None
    arguments = parse_arguments(step.network_argument)
    student = build_student(step.student, teacher.task, spec, weights, own, auto, arguments)
    if step.image_size and student.spec.shape[2:] != spec.shape[2:]:
        raise ModelError(
            f"student {step.student} takes {student.spec.height_px}×{student.spec.width_px} px and --image-size is "
            f"{step.image_size}; leave --image-size out"
        )
    return student


def prune(
    study: Path,
    teachers: tuple[TeacherSource, ...],
    model: Path,
    options: PruneOptions,
    progress: Progress,
    out: Path,
    *,
    overwrite: bool = True,
) -> PruningRecord:
    """Prune a model and let it recover by distillation from the teachers, or without any from what it was."""
    from medfm_compress.compress.teachers.source import TeacherSource

    sources = teachers or (TeacherSource(source=str(model)),)
    refuse_to_replace_inputs(out, sources, str(model))
    refuse_to_overwrite(out, overwrite)
    from medfm_compress.compress.distillation.teacher_metric import check_teacher
    from medfm_compress.compress.networks.model import load_model
    from medfm_compress.compress.pruning.iterative import PruningRun, prune_and_recover
    from medfm_compress.compress.pruning.kinds import check_prunable
    from medfm_compress.compress.teachers.open import open_teacher

    student = load_model(model)
    check_prunable(student)
    cases = _open_of(student.task, study, progress, student.spec.dicom)
    _warn_of_modality(cases, options.training.modality, progress)
    teacher = open_teacher(sources, task_of(cases), options.training, options.distillation.teacher_precision)
    check_teacher((cases,), teacher, None, progress, options.distillation)  # what is refused writes nothing
    return prune_and_recover(PruningRun(cases, teacher, options, out, progress), student)


def embed(
    study: Path,
    normal: tuple[str, ...],
    teachers: tuple[str, ...],
    step: EmbedStep,
    progress: Progress,
    out: Path,
    *,
    overwrite: bool = True,
) -> StoredEncoder:
    """Distil the features of the teachers, encoders each, into the network that ``step`` names."""
    refuse_to_overwrite(out, overwrite)
    if out.resolve() in {Path(name).resolve() for name in teachers}:
        raise ModelError(f"--out {out} is one of the teachers, and would be replaced; name another folder")
    refuse_misspelt(step.student, *teachers)
    import torch

    from medfm_compress.compress.embedding.distill import choose_cases, distill_embedding
    from medfm_compress.compress.embedding.encoder_teacher import open_teachers
    from medfm_compress.compress.networks.build import build_model

    first = _with_remarks(open_study(study, normal=normal), progress)
    studies = (first, *(_open(Path(path), progress) for path in step.more))
    _warn_of_modality(first, step.training.modality, progress)
    sources = _encoder_sources(teachers, step)
    cases = choose_cases(studies)
    teacher = open_teachers(sources, cases.training[0], step.embedding, step.training, out / "training" / "cache")
    spec = teacher.card.spec
    torch.manual_seed(step.training.seed)
    student = build_model(
        step.student,
        Task(kind="binary", labels=("absent", "present")),  # a classifier has to have some; it is left out
        size_px=spec.height_px,
        colour=spec.colour,
        weights=Path(step.weights) if step.weights else None,
        spec=spec,
    )
    return distill_embedding(studies, teacher, student, step.training, out, progress, step.embedding)


def _encoder_sources(teachers: tuple[str, ...], step: EmbedStep) -> tuple[EncoderSource, ...]:
    """Where the teachers come from; weights go to those that are no folder, in their order."""
    from medfm_compress.compress.anomaly.options import EncoderSource

    named = [name for name in teachers if not Path(name).is_dir() and not name.startswith("hf-hub:")]
    if len(named) != len(step.teacher_weights):
        raise InputError(
            f"{len(named)} teacher(s) are timm names and {len(step.teacher_weights)} --teacher-weights are given; give "
            "one for each, in their order"
        )
    weights = dict(zip(named, step.teacher_weights, strict=True))

    def source_of(name: str) -> EncoderSource:
        source = EncoderSource(encoder=name, licence=step.licence, intended_use=step.intended_use)
        if not Path(name, "encoder.json").is_file():
            source = msgspec.structs.replace(source, level=step.level)
        if Path(name).is_dir():
            return source
        return msgspec.structs.replace(
            source, weights=weights.get(name, ""), image_size=step.image_size, colour=step.colour
        )

    return tuple(map(source_of, teachers))


def fit_anomaly(
    study: Path,
    normal: tuple[str, ...],
    encoder: EncoderSource,
    options: AnomalyFit,
    progress: Progress,
    out: Path,
    *,
    overwrite: bool = True,
) -> Model:
    """Fit a scorer on the embeddings of the normal cases of a study."""
    refuse_to_overwrite(out, overwrite)
    if Path(encoder.encoder).resolve() == out.resolve():
        raise ModelError(f"--out {out} is the encoder that it is made of, and would replace it; name another folder")
    refuse_misspelt(encoder.encoder)
    from medfm_compress.compress.anomaly.fit import fit_anomaly_model
    from medfm_compress.compress.anomaly.open_encoder import open_encoder

    cases = _with_remarks(open_study(study, normal=normal), progress)
    return fit_anomaly_model(cases, open_encoder(encoder, cases), options, out, progress)


def _warn_of_modality(cases: Study, modality: str, progress: Progress) -> None:
    """Colour images with the augmentation of radiographs are usually a --modality that nobody thought of."""
    if modality != "radiograph" or study_colour_kind(cases) != "colour":
        return
    progress(
        "warning: the images are in colour and --modality is 'radiograph', its default, whose augmentation is made for "
        "grey images; give --modality dermoscopy, histology, endoscopy or none (in a recipe, training: modality:)"
    )


def _open(path: Path, progress: Progress, rules: DicomRules | None = None, structures: tuple[str, ...] = ()) -> Study:
    """A study; what opening it passed over or took for something else is said."""
    return _with_remarks(open_study(path, dicom_rules=rules, structures=structures), progress)


def _open_of(task: Task, path: Path, progress: Progress, rules: DicomRules) -> Study:
    """Likewise, for a model of ``task``."""
    return _with_remarks(open_study_of(task, path, rules), progress)


def _with_remarks(study: Study, progress: Progress) -> Study:
    for sentence in study.remarks:
        progress(f"note: {sentence}")
    return study


def task_of(cases: Study) -> Task:
    """What a study asks of a network."""
    return cases.task


def export(
    model: Path, study: Path, step: ExportStep, name: str, recipe_sha256: str, progress: Progress, out: Path
) -> Manifest:
    """Write the FP32 bundle of a model folder, its parity with the module checked."""
    from medfm_compress.compress.anomaly.nearest_cases import load_nearest_cases
    from medfm_compress.compress.networks.model import load_model
    from medfm_compress.compress.pruning.exported_sparsity import check_exported_sparsity
    from medfm_compress.compress.qat.ranges_file import load_ranges
    from medfm_compress.device_spec import device_spec
    from medfm_compress.export.build import BundleDraft, build_bundle
    from medfm_compress.runtime.bundle.manifest import Provenance

    loaded = load_model(model)
    own = f"{loaded.name}@{loaded.weights_sha256()}"
    provenance = Provenance(
        teacher=loaded.provenance.teacher or own,
        teacher_licence=loaded.licence,
        student=own,
        study_fingerprint=loaded.provenance.study_fingerprint,
        steps=(*loaded.provenance.steps, *_intention(loaded)),
        recipe_sha256=recipe_sha256,
    )
    cases = _open_of(loaded.task, study, progress, loaded.spec.dicom)
    draft = BundleDraft(
        name=name or loaded.name,
        spec=device_spec(loaded.spec, step, cases, progress),
        task=loaded.task,
        provenance=provenance,
        intended_use=step.intended_use,
        false_refusal_rate=step.false_refusal_rate,
        heat_map=step.heat_map,
        columns=loaded.columns,
        nearest=load_nearest_cases(model),
    )
    with replacing(out) as temporary:
        manifest = build_bundle(
            loaded.module,
            draft,
            temporary,
            study=cases,
            rule=step.rule,
            progress=progress,
            ranges=load_ranges(model),
        )
        if sparse := check_exported_sparsity(model, temporary):
            progress(f"{len(sparse)} layers are 2:4 sparse, in the exported file as well")
    return manifest


def _intention(model: Model) -> tuple[str, ...]:
    """What the publisher of the teacher's weights says they are for, as a line of the bundle's provenance."""
    return (f"teacher's intended use: {model.intended_use}",) if model.intended_use else ()


def quantize(
    cases: CaseSource,
    bundle: Path,
    options: QuantizeOptions,
    progress: Progress,
    out: Path,
    source: TeacherSource | None = None,
) -> Quantized:
    """Write a copy of a bundle with INT8 variants where they are faithful and faster.

    Args:
        cases: that calibrate and judge.
        bundle: or an ONNX file, of which an FP32 bundle is made first.
        options: see `QuantizeOptions`.
        progress: told what begins.
        out: the bundle to write.
        source: what was said of an ONNX file.
    """
    cases.check()
    from medfm_compress.compress.quantization.quantize_bundle import quantize_bundle
    from medfm_compress.compress.quantization.targets import for_engines
    from medfm_compress.runtime.bundle.bundle import Bundle

    with tempfile.TemporaryDirectory(prefix="medfm-onnx-") as scratch:
        if source is not None:
            bundle = Path(scratch, f"{bundle.stem}.medfm")
            export_onnx_model(source, cases, ExportStep(), progress, bundle)
        manifest = Bundle.open(bundle).manifest
        study = cases.open(manifest.task, manifest.image_spec, progress)
        return quantize_bundle(bundle, study, out, for_engines(options), progress)


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
    from medfm_compress.bench.types.target import is_torch, split_targets
    from medfm_compress.runtime.bundle.bundle import Bundle
    from medfm_compress.teacher_baselines import Reference, check_devices, row_targets, teacher_rows

    targets, target_threads = split_targets(step.targets)
    check_devices(targets)
    threads = target_threads or step.plan.threads
    opened, of_variants = Bundle.open(bundle), tuple(target for target in targets if not is_torch(target))
    lacking = unavailable_variants(opened, of_variants)
    on_gpu = any(v.device != "cpu" for v in chosen_variants(opened, of_variants) if v.name not in lacking)
    cases = _open_of(opened.manifest.task, study, progress, opened.manifest.image_spec.dicom)
    teacher = Reference(teachers, task_of(cases), threads)
    with tempfile.TemporaryDirectory(prefix="medfm-teacher-") as scratch:
        options = BenchOptions(
            plan=msgspec.structs.replace(step.plan, threads=threads),
            targets=of_variants,
            others=teacher_rows(teacher, threads, Path(scratch), row_targets(targets, on_gpu=on_gpu), progress),
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
    cases = _open(study, progress, manifest.image_spec.dicom)
    teacher = _explainable(teachers, task_of(cases))
    told = (
        (teacher.path.name, teacher.manifest.told) if isinstance(teacher, Bundle) else (teacher.name, teacher.columns)
    )
    for name, columns in ((manifest.name, manifest.told), told):
        if columns:
            raise ModelError(
                f"{name} takes columns beside the image ({columns[0].name} …), and explain changes images alone; "
                "give a teacher and a bundle of the image alone"
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
