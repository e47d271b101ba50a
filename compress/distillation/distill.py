"""Distil a teacher into a student: the teacher answers once, on views through which the epochs cycle.

The student sees the very pixels that the teacher answered on (Beyer et al. 2022, "Knowledge distillation: a good
teacher is patient and consistent"); labels are one more term, for the cases that have them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional

from medfm_compress.compress.distillation.options import Distillation
from medfm_compress.compress.distillation.training_cases import TrainingCases, Weighing, gather_training_cases
from medfm_compress.compress.losses.base import DistillationBatch, Term
from medfm_compress.compress.losses.registry import (
    TEACHER_FEATURES,
    FeatureShapes,
    LabelTerm,
    Setting,
    label_terms_of,
    make_label_term,
    make_term,
)
from medfm_compress.compress.networks.features import offered, tapped
from medfm_compress.compress.networks.model import Model, Origin, save_model
from medfm_compress.compress.qat.prepare import trained_ranges
from medfm_compress.compress.qat.ranges_file import save_ranges
from medfm_compress.compress.qat.schedule import after_float, in_full_precision, needs_float_stage, plain, quantizing
from medfm_compress.compress.quantization.range_estimators import Range
from medfm_compress.compress.teacher_outputs.collect import OutputRequest, collect_outputs
from medfm_compress.compress.teachers.output_cache import OutputCache, ViewPlan
from medfm_compress.compress.teachers.teacher import Teacher, TeacherCard
from medfm_compress.compress.training.augment import CycledViews, augmentation_for, view_seed
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.dataset import (
    check_labels,
    columns_identity,
    load_columns,
    load_dataset,
    load_images,
    pixels_of,
)
from medfm_compress.compress.training.distributed import is_first
from medfm_compress.compress.training.job import Batch, Job, Trained
from medfm_compress.compress.training.kinds import training_rules
from medfm_compress.compress.training.loop import train
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Study
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.task import Task


def distill(
    studies: tuple[Study, ...],
    teacher: Teacher | OutputCache,
    student: Model,
    config: TrainingConfig,
    out: Path,
    progress: Progress,
    distillation: Distillation | None = None,
) -> Model:
    """Train ``student`` on the teacher's answers and the labels, save it with the teacher's licence.

    Args:
        studies: the first needs train and val splits, its test split is never read; of further ones the training and
            unlabelled images are learned from without their labels.
        teacher: its spec may differ from the student's (another size or colour); or its cached answers alone.
        student: start; its module is trained in place.
        config: how.
        out: model folder; ``out/training`` keeps answers, caches and the checkpoint: an interrupted call goes on there.
        progress: receives one line an epoch.
        distillation: what to learn from.

    Raises:
        StudyError: labels that differ from the teacher's or the student's, or cached answers of other cases.
        ModelError: a teacher whose logits are not finite.
        InputError: a loss that does not fit the task, the teacher or the student.
    """
    distillation = distillation or Distillation()
    study, card = studies[0], teacher.card
    check_labels(study, card.task, card.name)
    check_labels(study, student.task, student.name)
    _check_grids(card, student)
    _check_qat(student, distillation)
    course = _Course(study, card, student, config, out / "training", with_losses(distillation, student.task))
    weighing = Weighing(
        distillation.teacher_weight, distillation.label_weight_column, distillation.teacher_weight_column
    )
    training_cases = gather_training_cases(study, weighing, unlabelled=distillation.unlabelled, more=studies[1:])
    if training_cases.unlabelled:
        unlabelled = f"{training_cases.unlabelled} that learn from the teacher alone"
        progress(f"{training_cases.labelled} labelled cases, and {unlabelled}")
    if isinstance(teacher, OutputCache):
        teacher.check(training_cases.groups)
    store = teacher if isinstance(teacher, OutputCache) else _ask(course, teacher, training_cases, progress)
    if student.task.is_dense:
        height, width = store.header.logits_shape[1:]
        progress(f"teacher: maps of logits kept at {height}×{width} in float16")
    trained, ranges = _train(course, training_cases, store, progress)
    step = (
        f"distilled {student.name} from {card.name}: {trained.epochs_of(config.epochs)}, "
        f"losses {_describe(course.distillation.losses)}, temperature {distillation.temperature:g}, "
        f"teacher weight {distillation.teacher_weight:g}, {training_cases.unlabelled} unlabelled cases, "
        + (f"maps kept at 1/{store.header.stride} of the teacher's size, " if student.task.is_dense else "")
        + f"seed {config.seed}, validation {training_rules(student.task).score} {trained.best:.4f}"
        + (f", {len(ranges)} layers with INT8 values" if ranges else "")
    )
    origin = Origin(
        teacher=card.identity,
        study_fingerprint=course.study_fingerprint,
        steps=lineage(card.steps, student.provenance.steps, step),
    )
    result = replace(
        student, module=trained.network, provenance=origin, licence=card.licence, intended_use=card.intended_use
    )
    if is_first():
        save_model(result, out)
        if ranges:
            save_ranges(ranges, result.weights_sha256(), out)
    return result


def lineage(teacher: tuple[str, ...], student: tuple[str, ...], step: str) -> tuple[str, ...]:
    """Steps of the result: the teacher's, the student's own and this one; what both begin with is said once.

    Steps that read alike are still steps: recovering twice to the same score was done twice.
    """
    differs = (a != b for a, b in itertools.zip_longest(teacher, student))
    shared = next((number for number, here in enumerate(differs) if here), len(teacher))
    return (*teacher, *student[shared:], step)


def with_losses(distillation: Distillation, task: Task) -> Distillation:
    """Fill the losses in that were left to the default of the task."""
    return msgspec.structs.replace(
        distillation,
        losses=distillation.losses or training_rules(task).distillation_losses(task),
        label_loss=distillation.label_loss or label_terms_of(task)[0],
    )


class StudentLearner(nn.Module):
    """A student, and all that it is compared with; trains the projections of the terms along with it."""

    def __init__(self, student: nn.Module, terms: Mapping[str, tuple[float, Term]], label_term: LabelTerm) -> None:
        super().__init__()
        features = {name for _, term in terms.values() for name in term.student_features}
        self.student = tapped(student, tuple(sorted(features)))
        self.trained_terms = nn.ModuleList(term for _, term in terms.values() if isinstance(term, nn.Module))
        self._terms, self._label_term = tuple(terms.values()), label_term

    def forward(self, batch: Batch) -> Tensor:
        """Mean loss of a batch; its extras are what `extras_of` looks up. A scalar."""
        outputs = self.student(batch.inputs)
        logits, extras = outputs.logits.float(), batch.extras
        with torch.autocast(logits.device.type, enabled=False):
            inputs = DistillationBatch(
                student=logits,
                teacher=_on_grid(extras["teacher"], logits),
                student_features={name: value.float() for name, value in outputs.features.items()},
                teacher_features={k.removeprefix("teacher:"): v for k, v in extras.items() if k.startswith("teacher:")},
            )
            learned = sum((weight * term(inputs) for weight, term in self._terms), logits.new_zeros(len(logits)))
            # Where there is no label its weight is 0, whatever the target says.
            labelled = self._label_term(logits, extras["targets"])
            loss: Tensor = (extras["teacher_weight"] * learned + extras["label_weight"] * labelled).mean()
        return loss


def _on_grid(teacher: Tensor, student: Tensor) -> Tensor:
    """The teacher's maps of logits, bilinear at the size of the student's; logits of images as they are."""
    if teacher.ndim == 2 or teacher.shape[2:] == student.shape[2:]:
        return teacher
    return functional.interpolate(teacher, size=student.shape[2:], mode="bilinear", align_corners=False)


def _check_qat(student: Model, distillation: Distillation) -> None:
    """Raises ModelError for a student whose layers cannot be trained with INT8 values."""
    if distillation.qat and student.columns:
        raise ModelError(
            f"{student.name} takes columns beside the image, and training with INT8 values knows images alone; leave "
            "--qat out: 'medfm-compress quantize' calibrates with the columns"
        )


def _check_grids(teacher: TeacherCard, student: Model) -> None:
    """Raises ModelError where a point of the student's maps lies elsewhere in the image than the teacher's."""
    theirs, own = teacher.spec, student.spec
    if not student.task.is_dense:
        return
    padded = "longest" in (theirs.resize, own.resize)
    shapes = (theirs.height_px * own.width_px, own.height_px * theirs.width_px)
    same = (theirs.resize, theirs.tiles) == (own.resize, own.tiles)
    if not same or (padded and shapes[0] != shapes[1]):
        raise ModelError(
            f"{teacher.name} sees images {theirs.resize} to {theirs.height_px}×{theirs.width_px} and {student.name} "
            f"{own.resize} to {own.height_px}×{own.width_px}, so that a pixel of one is no pixel of the other; give a "
            "student that is prepared as the teacher is, at any size of the same shape"
        )


@dataclass(frozen=True)
class _Course:
    """Everything that decides what the student becomes, but for the cases."""

    study: Study
    teacher: TeacherCard
    student: Model
    config: TrainingConfig
    folder: Path
    distillation: Distillation
    checkpoint: str = "checkpoint.pt"

    @property
    def study_fingerprint(self) -> str:
        return study_fingerprint(self.study)

    def fingerprint(self, training_cases: TrainingCases, store: OutputCache) -> str:
        return digest(
            {
                "studies": [study_fingerprint(study) for study, _ in training_cases.groups],
                "cases": len(training_cases.targets),
                "answers": store.fingerprint,
                "config": self.config.outcome(),
                "distillation": self.distillation,
                "architecture": self.student.architecture,
                "spec": pixels_of(self.student.spec),
                "start": self.student.weights_sha256(),
            }
            | columns_identity(training_cases.groups, self.student.columns)
        )


def _ask(course: _Course, teacher: Teacher, training_cases: TrainingCases, progress: Progress) -> OutputCache:
    """The teacher's answers on the views of this course, from the cache where they are there."""
    config, distillation = course.config, course.distillation
    plan = ViewPlan(
        augmentation=augmentation_for(config.modality),
        seeds=tuple(view_seed(distillation.views_seed, number) for number in range(distillation.views)),
    )
    request = OutputRequest(
        images=load_images(training_cases.groups, teacher.card.spec, course.folder / "cache", progress),
        groups=training_cases.groups,
        plan=plan,
        features=tuple(name for name in _features_of(distillation) if name in teacher.card.features),
        precision=distillation.teacher_precision,
        stride=distillation.output_stride,
        columns=load_columns(training_cases.groups, teacher.card.told),
    )
    return collect_outputs(teacher, request, course.folder / "teacher-outputs", progress)


def _train(
    course: _Course, training_cases: TrainingCases, store: OutputCache, progress: Progress
) -> tuple[Trained, dict[str, Range]]:
    """The trained network, with plain weights, and where it was trained with INT8 values the ranges of its layers."""
    if not course.distillation.qat:
        return train(_job(course, training_cases, store, progress), course.config, progress), {}
    if needs_float_stage(course.student):
        progress("in float first, then with INT8 values")
        floats = train(_job(course, training_cases, store, progress), course.config, progress)
        student = replace(course.student, module=floats.network)
        course = replace(course, student=student, config=after_float(course.config))
    images = load_images(training_cases.groups, course.student.spec, course.folder / "cache", progress)
    config = in_full_precision(course.config)
    student = quantizing(course.student, images)
    rounded = replace(course, student=student, config=config, checkpoint="checkpoint-int8.pt")
    trained = train(_job(rounded, training_cases, store, progress), config, progress)
    return replace(trained, network=plain(course.student, trained.network)), trained_ranges(trained.network)


def _job(course: _Course, training_cases: TrainingCases, store: OutputCache, progress: Progress) -> Job:
    student, config, cache = course.student, course.config, course.folder / "cache"
    val = load_dataset(course.study, "val", student.spec, cache, progress, student.columns)
    images = load_images(training_cases.groups, student.spec, cache, progress)
    labelled = training_cases.targets[training_cases.has_label]
    distillation = course.distillation
    label_term = make_label_term(distillation.label_loss, labelled, student.task, balanced=distillation.balanced)
    plan, rules = store.plan, training_rules(student.task)
    targets = rules.targets(
        training_cases.groups, training_cases.has_label, student.task, student.spec, cache, progress
    )
    return Job(
        learner=StudentLearner(student.module, _terms(course, store), label_term),
        network=student.module,
        images=images,
        views=CycledViews(
            plan.augmentation, len(training_cases.targets), lambda epoch: plan.seeds[epoch % len(plan.seeds)]
        ),
        mean=student.spec.mean,
        std=student.spec.std,
        extras=extras_of(training_cases, targets, store, _features_of(distillation)),
        columns=load_columns(training_cases.groups, student.columns),
        moving=rules.moving,
        score=rules.scorer(val, student.spec, student.task, config),
        score_name=f"val {rules.score}",
        checkpoint=course.folder / course.checkpoint,
        fingerprint=course.fingerprint(training_cases, store),
    )


def extras_of(
    training_cases: TrainingCases, targets: Callable[[Tensor], Tensor], store: OutputCache, features: tuple[str, ...]
) -> Callable[[Tensor, int], Mapping[str, Tensor]]:
    """Targets, weights, and the teacher's logits (``teacher``) and features (``teacher:NAME``) of a batch's cases."""

    def look_up(cases: Tensor, epoch: int) -> Mapping[str, Tensor]:
        answers = store.lookup(epoch % len(store.plan.seeds), cases, features)
        return {
            "targets": targets(cases),
            "label_weight": training_cases.label_weight[cases],
            "teacher_weight": training_cases.teacher_weight[cases],
            "teacher": answers.logits,
            **{f"teacher:{name}": tensor.float() for name, tensor in answers.features.items()},
        }

    return look_up


def _features_of(distillation: Distillation) -> tuple[str, ...]:
    """The teacher's features that the losses read."""
    return tuple(sorted({f for name in distillation.losses for f in TEACHER_FEATURES.get(name, ())}))


def _terms(course: _Course, store: OutputCache) -> dict[str, tuple[float, Term]]:
    """The terms with their weights; raises InputError for one that does not fit the task, student or teacher."""
    student, distillation = course.student, course.distillation
    shapes = FeatureShapes(offered(student.module, student.spec.shape), store.header.features)
    setting = Setting(distillation.temperature, student.task, shapes)
    return {name: (weight, make_term(name, setting)) for name, weight in distillation.losses.items()}


def _describe(losses: Mapping[str, float]) -> str:
    return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in losses.items())
