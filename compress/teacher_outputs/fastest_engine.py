"""The fastest way on this machine to ask a teacher that is a PyTorch module, as long as it stays faithful.

On a CPU the candidates are OpenVINO in bf16, where the CPU multiplies it, then OpenVINO in fp32, then PyTorch; on a GPU
PyTorch in bf16. Each is compared with PyTorch in fp32 on some of the very images: the first whose relative logit error
(see `goldens`) stays below a limit, and that is not slower, is taken. ``int8`` must be asked for by name: its error is
several times that of bf16, and a student inherits it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medfm_compress.compress.teacher_outputs.onnx_graph import BATCH, export_graph, quantized_graph
from medfm_compress.compress.teacher_outputs.openvino_teacher import OpenVinoTeacher
from medfm_compress.compress.teachers.ensemble import EnsembleTeacher
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.teacher import Teacher
from medfm_compress.compress.training.device import best_precision
from medfm_compress.compress.training.distributed import agree, is_first
from medfm_compress.compress.training.job import Images, gather
from medfm_compress.runtime.cpu import missing_flags, read_cpu
from medfm_compress.runtime.errors import InputError, MedfmError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.instruction_sets import BF16, U8S8

PRECISIONS = ("auto", "fp32", "bf16", "int8")
LIMITS: Mapping[str, float] = MappingProxyType({"fp32": 0.01, "bf16": 0.01, "int8": 0.05})
"""Largest relative logit error by precision."""
WORTH = 512
"""Answers from which on converting a network takes less time than it saves."""
_PROBES = 2 * BATCH
_CALIBRATION = 8 * BATCH
_SLOWER = 1.1  # as slow as PyTorch, within what a shared machine adds
_ROUNDS = 3


class Probe(NamedTuple):
    """Images to compare on, and what PyTorch says of them in fp32.

    Attributes:
        images: ``[n, c, h, w]`` float32 in [0, 1].
        wanted: features that will be asked for.
        reference: the teacher in PyTorch fp32.
        answers: its.
        seconds: that it takes for `BATCH` images.
    """

    images: Tensor
    wanted: tuple[str, ...]
    reference: ModuleTeacher
    answers: TeacherOutputs
    seconds: float


def fastest_engine(
    teacher: Teacher,
    images: Images,
    wanted: tuple[str, ...],
    precision: str,
    views: int,
    progress: Progress,
) -> Teacher:
    """The same teacher in the fastest engine and precision that stay faithful here.

    Args:
        teacher: one that is no PyTorch module comes back as it is; of several each is hastened.
        images: ``[n, c, h, w]`` float32 in [0, 1], which it will be asked about; some of them are probed.
        wanted: features that it will be asked for.
        precision: ``auto``, ``fp32`` (PyTorch), ``bf16`` or ``int8``; what fails falls back to PyTorch in fp32.
        views: how often it will be asked about each image.
        progress: told what is used, how fast and how faithful it is, and why not something else.

    Raises:
        InputError: an unknown precision.
        ModelError: logits that are not finite even in fp32.
    """
    if precision not in PRECISIONS:
        raise InputError(f"teacher_precision is {precision!r}; it must be {', '.join(PRECISIONS)}")
    if isinstance(teacher, EnsembleTeacher):
        return EnsembleTeacher(
            [fastest_engine(each, images, (), precision, views, progress) for each in teacher.teachers]
        )
    if not isinstance(teacher, ModuleTeacher):
        return teacher
    reference = in_pytorch(teacher, "fp32")
    worth = len(images) * views >= WORTH
    makers = _candidates(teacher, precision, worth=worth) if precision != "fp32" else {}
    workshop = _Workshop(teacher, wanted, partial(_spread, images, _CALIBRATION))
    if is_first():
        name, fastest = _fastest(makers, workshop, partial(_probe, reference, images, wanted), progress)
        agree(name)
        if fastest is None:
            progress(f"teacher: {reference.engine}")
        return fastest or reference
    name = agree("")  # what the first process chose: every shard comes from one engine
    return makers[name](workshop) if name else reference


def _fastest(
    makers: Mapping[str, _Maker], workshop: _Workshop, make_probe: Callable[[], Probe], progress: Progress
) -> tuple[str, Teacher | None]:
    """The first candidate that may stand in, with its name; an empty one and None where there is none."""
    probes: list[Probe] = []  # asked for at most once, and not at all without candidates
    for name, make in makers.items():
        probes = probes or [make_probe()]
        outcome = _tried(partial(make, workshop), probes[0])
        if isinstance(outcome, Faithful):
            progress(f"teacher: {outcome}")
            return name, outcome.teacher
        progress(f"teacher: not in {name}: {outcome}")
    return "", None


class Faithful(NamedTuple):
    """A teacher that may stand in for PyTorch's fp32.

    Attributes:
        teacher: itself.
        error: its relative logit error.
        speedup: over PyTorch in fp32, batch `BATCH`.
    """

    teacher: Teacher
    error: float
    speedup: float

    def __str__(self) -> str:
        return (
            f"{self.teacher.engine}, {self.speedup:.1f} times as fast as pytorch fp32, "
            f"relative logit error {self.error:.2g}"
        )


class _Workshop:
    """Makes the candidates; the network is exported once for all of them, when the first one needs it."""

    def __init__(self, teacher: ModuleTeacher, wanted: tuple[str, ...], calibration: Callable[[], Tensor]) -> None:
        self.teacher, self.wanted, self._calibration = teacher, wanted, calibration

    @cached_property
    def graph(self) -> bytes:
        return export_graph(self.teacher.model, self.wanted)

    def openvino(self, precision: str) -> OpenVinoTeacher:
        return OpenVinoTeacher(self.teacher, [self.graph], self.wanted, precision)

    def openvino_int8(self, rest: str) -> OpenVinoTeacher:
        spec = self.teacher.model.spec
        mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (spec.mean, spec.std))
        files = quantized_graph(self.graph, ((self._calibration() - mean) / std).numpy())
        return OpenVinoTeacher(self.teacher, files, self.wanted, rest)

    def pytorch(self, precision: str) -> ModuleTeacher:
        return in_pytorch(self.teacher, precision)


_Maker = Callable[[_Workshop], Teacher]


def _candidates(teacher: ModuleTeacher, precision: str, *, worth: bool) -> dict[str, _Maker]:
    """Engines to try by name, the fastest first."""
    makers: dict[str, _Maker] = {}
    cpu = read_cpu()
    has_bf16 = not missing_flags(BF16, cpu)
    if teacher.device == "cpu" and worth:
        if precision == "int8" and not missing_flags(U8S8, cpu):
            rest = "int8-bf16" if has_bf16 else "int8"
            makers["openvino int8"] = lambda workshop: workshop.openvino_int8(rest)
        if has_bf16:
            makers["openvino bf16"] = lambda workshop: workshop.openvino("bf16")
        if precision == "auto":
            makers["openvino fp32"] = lambda workshop: workshop.openvino("fp32")
    if precision == "bf16" or best_precision("auto", teacher.device) == "bf16":
        makers["pytorch bf16"] = lambda workshop: workshop.pytorch("bf16")
    return makers


def in_pytorch(teacher: ModuleTeacher, precision: str) -> ModuleTeacher:
    """The same module in another precision."""
    return teacher if teacher.precision == precision else ModuleTeacher(teacher.model, teacher.device, precision)


def _probe(reference: ModuleTeacher, images: Images, wanted: tuple[str, ...]) -> Probe:
    chosen = _spread(images, _PROBES)
    answers = TeacherOutputs(*_asked(reference, chosen, wanted))
    return Probe(chosen, wanted, reference, answers, _seconds(reference, chosen[:BATCH], wanted))


def _tried(make: Callable[[], Teacher], probe: Probe) -> Faithful | str:
    """The candidate, or why not."""
    try:
        teacher = make()
        logits, features = _asked(teacher, probe.images, probe.wanted)
    except MedfmError as exc:
        return str(exc)
    task = teacher.card.task
    error = relative_logit_error(logits.numpy(), probe.answers.logits.numpy(), task)
    limit = LIMITS[_kind(teacher.engine)]
    if not error <= limit:
        return f"relative logit error {error:.2g} on {len(probe.images)} images, allowed is {limit:g}"
    for name, values in features.items():
        if not torch.isfinite(values).all():
            return f"feature {name!r} is not finite"
    seconds = _seconds(teacher, probe.images[:BATCH], probe.wanted)
    if seconds > probe.seconds * _SLOWER:
        return f"{seconds / probe.seconds:.1f} times the time of {probe.reference.engine}"
    return Faithful(teacher, error, probe.seconds / seconds)


def _kind(engine: str) -> str:
    return engine.rsplit(maxsplit=1)[-1].partition("-")[0]


def _asked(teacher: Teacher, images: Tensor, wanted: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    parts = [teacher.answer(part, wanted) for part in torch.split(images, BATCH)]
    features = {name: torch.cat([part.features[name] for part in parts]) for name in wanted}
    return torch.cat([part.logits for part in parts]), features


def _seconds(teacher: Teacher, images: Tensor, wanted: tuple[str, ...]) -> float:
    """Of one batch, warm; the best of some, because other work on the machine only ever adds."""
    times = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        teacher.answer(images, wanted)
        times.append(time.perf_counter() - start)
    return min(times)


def _spread(images: Images, most: int) -> Tensor:
    """Up to ``most`` of the images, evenly spaced: the same ones in every run."""
    count = min(most, len(images))
    rows = np.linspace(0, len(images) - 1, count).round().astype(np.int64)
    return torch.from_numpy(gather(images, rows))
