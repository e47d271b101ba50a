"""`Teacher`: whatever answers on images, wherever it came from."""

from __future__ import annotations

from typing import Protocol

import msgspec

from medfm_compress.compress.networks.inputs import Inputs
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task

BATCH = 32
"""Images that a teacher is asked for at a time, at most."""
DENSE_BATCH = 8
"""Likewise of a segmentation: maps of every layer at the image's size take gigabytes for 32 of them."""


def batch_of(task: Task) -> int:
    """Images that a teacher of ``task`` is asked for at a time, at most."""
    return DENSE_BATCH if task.is_dense else BATCH


class TeacherCard(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a teacher, and travels with everything that it teaches.

    Attributes:
        name: what reports call it.
        identity: ``name@sha256`` over all that decides its answers; another identity makes cached answers stale.
        spec: its preprocessing.
        task: its outputs.
        licence: of its weights.
        intended_use: what its publisher says it is for; empty where nothing is said.
        steps: what was done to it, in order.
        family: ``cnn``, ``vit``, ``hybrid``, or empty where its layers cannot be seen.
        features: names of `features` that it can give; empty where only logits come out.
        columns: that it takes beside the image; not set for none.
    """

    name: str
    identity: str
    spec: ImageSpec
    task: Task
    licence: str = ""
    intended_use: str = ""
    steps: tuple[str, ...] = ()
    family: str = ""
    features: tuple[str, ...] = ()
    columns: tuple[Column, ...] | msgspec.UnsetType = msgspec.UNSET

    @property
    def told(self) -> tuple[Column, ...]:
        """What it takes beside the image, in the order of its inputs."""
        return () if self.columns is msgspec.UNSET else self.columns


class Teacher(Protocol):
    """A model folder, a timm or torchvision network, an ONNX file, a MONAI bundle, or several of them."""

    card: TeacherCard
    engine: str
    """In which engine and precision it answers, e.g. ``pytorch fp32``; other ones give slightly other answers."""

    def answer(self, inputs: Inputs, features: tuple[str, ...] = ()) -> TeacherOutputs:
        """Outputs on images ``[n, channels, height, width]`` float32 in [0, 1], prepared by ``card.spec``.

        The teacher applies mean and std itself. ``features`` are features, of ``card.features``. Of columns beside the
        images those of ``card.columns`` are read.

        Raises:
            InputError: one of them is lacking.
            ModelError: logits that are not finite.
        """
        ...
