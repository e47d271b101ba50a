"""Steps that train a classification or segmentation: backbone, teacher, student, pruned student."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from medfm_compress.data.colour_kind import case_colour, colour_of
from medfm_compress.data.open import open_study
from medfm_compress.data.stain_fit import with_stain
from medfm_compress.data.study import Study
from medfm_compress.early_refusals import refuse_misspelt, refuse_to_overwrite, refuse_to_replace_inputs
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.task import Task
from medfm_compress.steps.studies import open_cases, open_cases_of, open_more, warn_of_modality

if TYPE_CHECKING:
    from medfm_compress.compress.networks.model import Model
    from medfm_compress.compress.pretrain.pretrain import Pretrained
    from medfm_compress.compress.pruning.options import PruneOptions
    from medfm_compress.compress.pruning.record import PruningRecord
    from medfm_compress.compress.students.auto_select import Auto, Choice
    from medfm_compress.compress.teachers.open import TeacherSource
    from medfm_compress.compress.teachers.teacher import TeacherCard
    from medfm_compress.step_settings import DistillStep, FinetuneStep, PretrainStep


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

    first = open_cases(study, progress, step.dicom)
    studies = (first, *open_more(first, step.more, progress, step.dicom))
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
    warn_of_modality(studies[0], step.training.modality, progress)
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

    cases = open_cases(study, progress, step.dicom, step.structure)
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
    from_hub = step.model.startswith("hf-hub:")
    if step.training.epochs:
        warn_of_modality(cases, step.training.modality, progress)
    elif not step.weights and not from_hub:
        model = _as_drawn(model, step.training.seed, progress)
    published = Path(step.weights).is_file() or from_hub  # a folder is `pretrain`'s
    training = step.training.starting(pretrained=published)
    return train_teacher(cases, model, training, out, progress, balanced=step.balanced, label_loss=step.label_loss)


def _as_drawn(model: Model, seed: int, progress: Progress) -> Model:
    """A network that no weights were given and that nothing will train, which says so."""
    progress(
        "warning: no --weights are given and --epochs 0 trains nothing: the weights stay as drawn at random, so the "
        "model is a baseline for encoders and for timing, and what it answers about an image means nothing"
    )
    origin = msgspec.structs.replace(
        model.provenance, steps=(*model.provenance.steps, f"drew the weights of {model.name} at random, seed {seed}")
    )
    return dataclasses.replace(model, provenance=origin)


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
    cases = open_cases(study, progress, structures=structures)
    warn_of_modality(cases, step.training.modality, progress)
    teacher = open_teacher(teachers, cases.task, step.training, step.distillation.teacher_precision)
    torch.manual_seed(step.training.seed)
    own = unmapped(teacher.model) if isinstance(teacher, ModuleTeacher) else None
    student = _student(teacher.card, own, step, auto)
    if step.columns:
        student = _with_columns(student, step, cases, progress)
    if teacher.card.told and not student.columns:
        beside = ", ".join(column.name for column in teacher.card.told)
        progress(f"the student sees the image alone, its teacher also {beside}; --columns gives them to the student")
    rules = teacher.card.spec.dicom
    first = open_study(study, dicom_rules=rules, structures=structures)
    studies = (first, *open_more(first, step.more, progress, rules))
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
    cases = open_cases_of(student.task, study, progress, student.spec.dicom)
    warn_of_modality(cases, options.training.modality, progress)
    teacher = open_teacher(sources, cases.task, options.training, options.distillation.teacher_precision)
    check_teacher((cases,), teacher, None, progress, options.distillation)  # what is refused writes nothing
    return prune_and_recover(PruningRun(cases, teacher, options, out, progress), student)
