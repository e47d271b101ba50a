"""Find the teacher that a source names."""

from __future__ import annotations

from pathlib import Path

import msgspec

from medfm_compress.compress.answers.store import AnswerStore
from medfm_compress.compress.distillation import Distillation
from medfm_compress.compress.model import CARD, load_model
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.teacher import Teacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.device import best_device, best_precision
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.task import Task


class TeacherSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a teacher comes from, and what its file does not say of itself.

    Attributes:
        source: model folder, ``timm:NAME``, ``hf-hub:OWNER/NAME``, ``torchvision:NAME``, an ``.onnx`` file, a MONAI
            bundle, or ``answers:FOLDER``.
        weights: of a timm or torchvision network.
        labels: its labels in the order of its outputs; empty takes the study's.
        spec: JSON file of its `ImageSpec`.
        mapping: its label → the study's label.
        licence: of its weights.
        intended_use: what its publisher says it is for.
    """

    source: str
    weights: str = ""
    labels: tuple[str, ...] = ()
    spec: str = ""
    mapping: dict[str, str] = {}
    licence: str = ""
    intended_use: str = ""


def open_teacher(
    sources: tuple[TeacherSource, ...], task: Task, config: TrainingConfig, distillation: Distillation
) -> Teacher | AnswerStore:
    """The teacher, ready to answer on a study of ``task``; several are averaged.

    Args:
        sources: at least one.
        task: of the study.
        config: names the device.
        distillation: names the teacher's precision.

    Raises:
        ModelError: there is no such teacher, or its labels cannot be the study's.
        InputError: a device or precision that this machine lacks.
    """
    device = best_device(config.device)
    precision = best_precision(distillation.teacher_precision, device)
    return _open_one(sources[0], task, device, precision)


def _open_one(source: TeacherSource, task: Task, device: str, precision: str) -> Teacher | AnswerStore:
    if source.source.startswith("answers:"):
        return AnswerStore.open(source.source.removeprefix("answers:"))
    if (Path(source.source) / CARD).is_file():
        return ModuleTeacher(load_model(source.source), device, precision)
    raise ModelError(f"{source.source} is no model folder")
