"""A student by its name: a network, a model folder, a scaled copy of the teacher, or one chosen by its latency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medfm_compress.compress.networks.build import build_model
from medfm_compress.compress.networks.libraries import check_network_name
from medfm_compress.compress.networks.model import CARD, Model, load_model
from medfm_compress.compress.students.auto_select import AUTO, Auto, auto_select
from medfm_compress.compress.students.scaled import PREFIX, parse_scale, scale_model
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

_OWN_START = "only a timm network starts from a file"


def build_student(
    name: str,
    task: Task,
    spec: ImageSpec,
    weights: Path | None,
    teacher: Model | None,
    auto: Auto | None = None,
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> Model:
    """A student that is not trained yet.

    Args:
        name: timm name, ``smp:…`` or ``monai:…`` for a segmentation, model folder, ``scaled:width=W,depth=D``, or
            ``auto``.
        task: of the study.
        spec: preprocessing of a new network; a model folder has its own.
        weights: start of a network that is named; a classifier of another shape is replaced.
        teacher: what a scaled copy is cut from; None where no teacher's layers are at hand.
        auto: what ``auto`` needs.
        arguments: of the constructor of a network that is named, over those that follow from its name.

    Raises:
        ModelError: unknown name, other labels, an input that the architecture cannot take, or a scaled copy without
            a teacher.
        InputError: options that do not go together, or a latency that nothing keeps to.
    """
    if arguments and ((Path(name) / CARD).is_file() or name == AUTO or name.startswith(PREFIX)):
        raise InputError(f"student {name!r} is built already or builds itself; leave --network-argument out")
    if (Path(name) / CARD).is_file():
        return _from_folder(Path(name), task, weights)
    if spec.height_px != spec.width_px:
        raise ModelError(f"the teacher's input is {spec.height_px}×{spec.width_px}; give the student's --image-size")
    if weights is not None and (name == AUTO or name.startswith(PREFIX)):
        raise InputError(f"student {name!r} cannot start from {weights}: {_OWN_START}; name the network, or give none")
    if task.is_dense and (name == AUTO or name.startswith(PREFIX)):
        raise InputError(
            f"student {name!r} is of networks that give one answer an image, and the study has masks; name a network, "
            "e.g. smp:unet/tu-mobilenetv3_small_100, or cut the teacher with 'medfm-compress prune'"
        )
    if name.startswith(PREFIX):
        scale = parse_scale(name)
        if teacher is None:
            raise ModelError(
                f"student {name!r} is cut from the teacher's own layers, and this teacher has none at hand; "
                "give one model folder or timm network as the teacher, or a timm name as the student"
            )
        return scale_model(teacher, scale, task, spec)
    if name == AUTO:
        if auto is None:
            raise InputError("student 'auto' is chosen by its latency; give --max-latency, e.g. --max-latency 10ms")
        return auto_select(task, spec, auto)
    size, colour = spec.height_px, spec.colour
    return build_model(name, task, size_px=size, colour=colour, weights=weights, spec=spec, arguments=arguments)


def check_student_name(name: str) -> None:
    """Said before the teacher is loaded: a student of this name can be built.

    Raises:
        ModelError: timm has no such network.
        InputError: factors of a scaled copy that cannot be read.
    """
    if name.startswith(PREFIX):
        parse_scale(name)
    elif name != AUTO and not (Path(name) / CARD).is_file():
        check_network_name(name)


def _from_folder(folder: Path, task: Task, weights: Path | None) -> Model:
    if weights is not None:
        raise InputError(
            f"student {folder} cannot start from {weights}: it has weights of its own; leave --weights out"
        )
    student = load_model(folder)
    if student.task.labels != task.labels or student.task.kind != task.kind:
        raise ModelError(
            f"student {folder} has the {student.task.kind} labels {', '.join(student.task.labels)} and the study the "
            f"{task.kind} labels {', '.join(task.labels)}; give a student of the study's labels, in their order"
        )
    return student
