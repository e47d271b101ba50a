"""Distil a teacher into a student: logits at a temperature, plus labels (Hinton et al. 2015).

The teacher sees ``views`` augmented views of each training case once, before the first epoch; the student's epochs
cycle through those views. It answers on the very pixels that the student sees (Beyer et al. 2022, "Knowledge
distillation: a good teacher is patient and consistent").
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from medfm_compress.compress.augment import View, augmentation_for, draw_view
from medfm_compress.compress.training.device import best_device, best_precision
from medfm_compress.compress.examples import check_labels, load_examples, pixels_of
from medfm_compress.compress.losses_old import class_weights, distillation_loss, label_loss
from medfm_compress.compress.model import Model, Origin, save_model
from medfm_compress.compress.old_training import Examples, Job, Progress, TrainingConfig, logits_of, train
from medfm_compress.data.fingerprint import study_fingerprint
from medfm_compress.data.study import Study
from medfm_compress.runtime.codec import digest
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.files import replacing


class Distillation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the student learns from.

    Attributes:
        temperature: of both softmaxes, above 0.
        teacher_weight: w in [0, 1]; the labels have 1 − w.
        views: augmented views that the teacher answers on, at least 1.
        balanced: weight the label term by inverse class frequency.
    """

    temperature: float = 3.0
    teacher_weight: float = 0.8
    views: int = 6
    balanced: bool = True

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"temperature is {self.temperature}; it must be above 0")
        if not 0 <= self.teacher_weight <= 1:
            raise InputError(f"teacher_weight is {self.teacher_weight}; it must be 0 to 1")
        if self.views < 1:
            raise InputError(f"views is {self.views}; it must be at least 1")


def distill(
    study: Study,
    teacher: Model,
    student: Model,
    config: TrainingConfig,
    out: Path,
    progress: Progress,
    distillation: Distillation | None = None,
) -> Model:
    """Train ``student`` on the teacher's logits and the labels, save it with the teacher's licence.

    Args:
        study: needs train and val splits; the test split is never read.
        teacher: its spec may differ from the student's (another size or colour).
        student: start; its module is trained in place.
        config: how.
        out: model folder; ``out/training`` keeps caches and the checkpoint, and an interrupted call goes on there.
        progress: receives one line an epoch.
        distillation: what to learn from.

    Raises:
        StudyError: labels that differ from the teacher's or the student's.
        ModelError: a teacher whose logits are not finite.
    """
    distillation = distillation or Distillation()
    check_labels(study, teacher.task, teacher.name)
    check_labels(study, student.task, student.name)
    fingerprint = study_fingerprint(study)
    teacher_id = f"{teacher.name}@{teacher.weights_sha256()}"
    identity = {
        "study": fingerprint,
        "teacher": teacher_id,
        "config": config,
        "distillation": distillation,
        "architecture": student.architecture,
        "spec": pixels_of(student.spec),
        "start": student.weights_sha256(),
    }
    training = load_examples(study, "train", student.spec, out / "training" / "cache", progress)
    val = load_examples(study, "val", student.spec, out / "training" / "cache", progress)
    lesson = Lesson(study, teacher, config, distillation, out / "training", digest(identity))
    answers = teacher_logits(lesson, progress)
    trained = train(_job(lesson, student, training, val, answers), config, progress)
    step = (
        f"distilled {student.name} from {teacher.name}: {len(trained.history)} epochs, temperature "
        f"{distillation.temperature:g}, teacher weight {distillation.teacher_weight:g}, seed {config.seed}, "
        f"validation AUROC {trained.best_auroc:.4f}"
    )
    origin = Origin(
        teacher=teacher_id,
        study_fingerprint=fingerprint,
        steps=tuple(dict.fromkeys((*teacher.provenance.steps, *student.provenance.steps, step))),
    )
    result = replace(student, module=trained.module, provenance=origin, licence=teacher.licence)
    save_model(result, out)
    return result


@dataclass(frozen=True)
class Lesson:
    """Everything that determines the teacher's answers, and where they are kept."""

    study: Study
    teacher: Model
    config: TrainingConfig
    distillation: Distillation
    folder: Path
    fingerprint: str

    def view(self, epoch: int, cases: int) -> View:
        """The augmented view that an epoch trains on."""
        number = epoch % self.distillation.views
        return draw_view(augmentation_for(self.config.modality), cases, self.config.seed * 100_003 + number)


def _job(lesson: Lesson, student: Model, training: Examples, val: Examples, answers: Tensor) -> Job:
    distillation, task = lesson.distillation, student.task
    targets = torch.from_numpy(training.targets)
    weights = class_weights(targets, task, balanced=distillation.balanced)

    def loss(logits: Tensor, index: Tensor, epoch: int) -> Tensor:
        answer = answers[epoch % distillation.views, index].to(logits.device)
        learned = distillation_loss(logits, answer, distillation.temperature, task)
        labelled = label_loss(logits, targets[index].to(logits.device), weights.to(logits.device), task)
        return distillation.teacher_weight * learned + (1 - distillation.teacher_weight) * labelled

    return Job(
        module=student.module,
        spec=student.spec,
        task=task,
        train=training,
        val=val,
        loss=loss,
        view=lambda epoch: lesson.view(epoch, len(training.images)),
        checkpoint=lesson.folder / "checkpoint.pt",
        fingerprint=lesson.fingerprint,
    )


def teacher_logits(lesson: Lesson, progress: Progress) -> Tensor:
    """The teacher's logits ``[views, n, labels]`` float32 on the training cases, computed once and kept on disk.

    Raises:
        ModelError: logits that are not finite.
    """
    path, teacher, views = lesson.folder / "teacher_logits.pt", lesson.teacher, lesson.distillation.views
    done: list[Tensor] = []
    if path.is_file():
        saved = torch.load(path, map_location="cpu", weights_only=True)
        done = list(saved["logits"]) if saved["fingerprint"] == lesson.fingerprint else []
    if len(done) >= views:
        return torch.stack(done[:views])
    images = load_examples(lesson.study, "train", teacher.spec, lesson.folder / "cache", progress).images
    device = best_device(lesson.config.device)
    precision = best_precision(lesson.config.precision, device)
    module = teacher.module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for number in range(len(done), views):
        progress(f"teacher: view {number + 1} of {views}")
        view = lesson.view(number, len(images))
        logits = logits_of(module, images, teacher.spec, device=device, precision=precision, view=view)
        if not torch.isfinite(logits).all():
            raise ModelError(f"the teacher {teacher.name} gives logits that are not finite; check its weights")
        done.append(logits)
        with replacing(path) as temporary:
            torch.save({"fingerprint": lesson.fingerprint, "logits": done}, temporary)
    return torch.stack(done)
