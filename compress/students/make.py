"""A student by its name: a timm network, a model folder, or a scaled copy of the teacher."""

from __future__ import annotations

from pathlib import Path

from medfm_compress.compress.build import build_model
from medfm_compress.compress.model import CARD, Model, load_model
from medfm_compress.runtime.errors import ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task


def make_student(name: str, task: Task, spec: ImageSpec, weights: Path | None, teacher: Model | None) -> Model:
    """A student that is not trained yet.

    Args:
        name: timm name, model folder, or ``scaled:width=W,depth=D``.
        task: of the study.
        spec: preprocessing of a new network; a model folder has its own.
        weights: start of a timm network; a classifier of another shape is replaced.
        teacher: what a scaled copy is cut from; None where no teacher's layers are at hand.

    Raises:
        ModelError: unknown name, an input that the architecture cannot take, or a scaled copy without a teacher.
    """
    if (Path(name) / CARD).is_file():
        return load_model(name)
    if spec.height_px != spec.width_px:
        raise ModelError(f"the teacher's input is {spec.height_px}×{spec.width_px}; give the student's --image-size")
    return build_model(name, task, size_px=spec.height_px, colour=spec.colour, weights=weights, spec=spec)
