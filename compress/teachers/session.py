"""Any teacher as a `Session` that a fresh process opens, so that whatever can teach can also be benched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import torch

from medfm_compress.compress.networks.inputs import with_columns
from medfm_compress.compress.networks.torch_session import TorchSession, unavailable
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.open import open_teacher
from medfm_compress.compress.teachers.output_cache import OutputCache
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.teachers.teacher import Teacher
from medfm_compress.compress.training.config import TrainingConfig
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.sessions.protocol import Array, Session, SessionInfo
from medfm_compress.runtime.task import Task

OPENER = "medfm_compress.compress.teachers.session:open_session"


class TeacherSession:
    """A teacher that is no single module: an ONNX file, or several of whatever kind."""

    output_names: tuple[str, ...] = ("logits",)

    def __init__(self, teacher: Teacher, threads: int) -> None:
        self._teacher = teacher
        self.input_names = ("image", *(column.name for column in teacher.card.told))
        self._mean = torch.tensor(teacher.card.spec.mean).reshape(1, -1, 1, 1)
        self._std = torch.tensor(teacher.card.spec.std).reshape(1, -1, 1, 1)
        engine, _, precision = teacher.engine.partition(" ")
        single = "+" not in teacher.engine
        self.info = SessionInfo(
            backend=engine.replace("pytorch", "torch") if single else "torch",
            version=str(torch.__version__) if engine == "pytorch" else "",
            provider="cpu",
            precision=precision if single else "fp32",
            threads=threads,
        )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Logits ``[n, labels]`` float32 of normalised images ``[n, channels, height, width]`` and columns, float32."""
        images = torch.from_numpy(inputs["image"]) * self._std + self._mean  # a teacher normalises itself
        columns = {name: torch.from_numpy(inputs[name]) for name in self.input_names[1:]}
        return {"logits": self._teacher.answer(with_columns(images, columns)).logits.numpy()}


def open_live_teacher(sources: tuple[TeacherSource, ...], task: Task) -> Teacher:
    """The teacher that ``sources`` name, in FP32 on the CPU.

    Raises:
        ModelError: as `open_teacher` does; or cached outputs, which know nothing of other images.
    """
    teacher = open_teacher(sources, task, TrainingConfig(device="cpu"))
    if isinstance(teacher, OutputCache):
        raise ModelError(
            f"{sources[0].source} holds cached outputs on training images alone; give the teacher that they are of"
        )
    return teacher


def open_session(
    sources: list[dict[str, Any]],
    task: dict[str, Any],
    threads: int = 1,
    precision: str = "fp32",
    device: str = "cpu",
    compiled: bool = False,
) -> Session:
    """Open a teacher; sets the process's thread count.

    Args:
        sources: `TeacherSource` as JSON.
        task: of the study, as JSON.
        threads: of PyTorch; an ONNX file has its engine's own.
        precision: of a single module, see `TorchSession`; what is none runs in its own.
        device: likewise; what is none runs on the CPU.
        compiled: likewise, whether ``torch.compile`` compiles it.

    Raises:
        InputError: PyTorch finds no such device.
    """
    missing = unavailable(device)
    if missing:
        raise InputError(f"{missing}; use torch:cpu")
    torch.set_num_threads(threads)
    named = tuple(msgspec.convert(sources, list[TeacherSource]))
    teacher = open_live_teacher(named, msgspec.convert(task, Task))
    if isinstance(teacher, ModuleTeacher):
        return TorchSession(teacher.model, device, threads, precision, compiled=compiled)
    return TeacherSession(teacher, threads)
