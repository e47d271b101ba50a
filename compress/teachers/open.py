"""Find the teacher that a source names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from medfm_compress.compress.networks.model import CARD, Model
from medfm_compress.compress.teachers.ensemble import EnsembleTeacher
from medfm_compress.compress.teachers.from_folder import open_folder
from medfm_compress.compress.teachers.from_hub import open_hub
from medfm_compress.compress.teachers.from_library import open_library
from medfm_compress.compress.teachers.from_monai import METADATA, open_monai
from medfm_compress.compress.teachers.from_onnx import open_onnx
from medfm_compress.compress.teachers.from_timm import open_timm
from medfm_compress.compress.teachers.from_torchvision import open_torchvision
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.output_cache import OutputCache
from medfm_compress.compress.teachers.source import KINDS, TeacherSource
from medfm_compress.compress.teachers.steadiness import check_steady
from medfm_compress.compress.teachers.teacher import Teacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.compress.training.device import best_device
from medfm_compress.compress.training.distributed import take_device
from medfm_compress.runtime.errors import MedfmError, ModelError
from medfm_compress.runtime.task import Task

__all__ = ["TeacherSource", "open_teacher"]

_OUTPUTS = "outputs:"
_Opener = Callable[[TeacherSource, Task], Model]
_BY_PREFIX: Mapping[str, _Opener] = MappingProxyType(
    {
        "timm": open_timm,
        "hf-hub": open_hub,
        "torchvision": open_torchvision,
        "smp": open_library,
        "monai": open_library,
    }
)


def open_teacher(
    sources: tuple[TeacherSource, ...], task: Task, config: TrainingConfig, precision: str = "fp32"
) -> Teacher | OutputCache:
    """The teacher, ready to answer on a study of ``task``; several are averaged.

    Args:
        sources: at least one.
        task: of the study.
        config: names the device.
        precision: ``bf16``; anything else is float32, from which `fastest_engine` finds what is faster.

    Raises:
        ModelError: there is no such teacher, its labels cannot be the study's, or its answer on an image depends on the
            others in its batch or on chance.
        InputError: a device that this machine lacks.
        MissingDependency: a library that the teacher needs.
    """
    if not sources:
        raise ModelError(f"no teacher is given; give {KINDS}")
    cached = [source for source in sources if source.source.startswith(_OUTPUTS)]
    if cached:
        return _open_outputs(cached[0], alone=len(sources) == 1)
    device = best_device(config.device)
    take_device()
    autocast = "bf16" if precision == "bf16" else "fp32"
    teachers = [_open_one(source, task, device, autocast) for source in sources]
    return teachers[0] if len(teachers) == 1 else EnsembleTeacher(teachers)


def _open_outputs(source: TeacherSource, *, alone: bool) -> OutputCache:
    if not alone:
        raise ModelError(f"{source.source} are answers already and cannot be averaged; name it alone")
    source.refuse("weights", "labels", "spec", "outputs")
    if source.mapping:
        raise ModelError(f"{source.source} are answers with the study's labels already; leave --map out")
    return OutputCache.open(source.source.removeprefix(_OUTPUTS))


def _open_one(source: TeacherSource, task: Task, device: str, precision: str) -> Teacher:
    try:
        return _open_kind(source.described(), task, device, precision)
    except MedfmError:
        raise
    except Exception as exc:  # files come from anywhere, and loaders raise what they like
        said = " ".join(str(exc).split())[:300]
        raise ModelError(
            f"{source.source} cannot be opened as a teacher: {type(exc).__name__}: {said}; check that the file is "
            "whole and of the network that is named, or export the network to ONNX"
        ) from exc


def _open_kind(source: TeacherSource, task: Task, device: str, precision: str) -> Teacher:
    path = Path(source.source)
    if path.suffix.lower() == ".onnx" and path.is_file():
        return open_onnx(source, task)
    opener = _opener(source.source)
    source.refuse("outputs")  # a network gives logits
    teacher = ModuleTeacher(opener(source, task), device, precision)
    check_steady(teacher)
    return teacher


def _opener(text: str) -> _Opener:
    """What opens a network; raises ModelError for a source of no known kind."""
    path = Path(text)
    if (path / CARD).is_file():
        return open_folder
    if (path / METADATA).is_file():
        return open_monai
    kind = text.partition(":")[0]
    if kind in _BY_PREFIX:
        return _BY_PREFIX[kind]
    if path.exists():
        raise ModelError(f"{text} is no teacher; a teacher is {KINDS}")
    unknown = ":" in text and len(kind) > 1
    problem = f"a teacher of kind {kind!r} is not known" if unknown else f"{text} does not exist"
    raise ModelError(f"{problem}; a teacher is {KINDS}")
