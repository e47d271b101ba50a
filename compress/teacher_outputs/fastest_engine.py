"""The fastest engine on this machine for a teacher that is a PyTorch module, as long as it stays faithful.

On a CPU the candidates are OpenVINO in bf16, where the CPU multiplies it, then OpenVINO in fp32, then PyTorch; on a GPU
PyTorch in bf16. Each is compared with PyTorch in fp32 on some of the very images: the first whose relative logit error
(see `golden_cases`) stays below a limit, and that is not slower, is taken. ``int8`` must be requested by name: its
error is several times that of bf16, and a student inherits it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medfm_compress.bench.measure.stopwatch import Effort, interleaved_p50_ms
from medfm_compress.compress.networks.inputs import Inputs, images_in, in_parts
from medfm_compress.compress.teacher_outputs.onnx_graph import export_graph, quantized_graph
from medfm_compress.compress.teacher_outputs.openvino_teacher import OpenVinoTeacher
from medfm_compress.compress.teachers.ensemble import EnsembleTeacher
from medfm_compress.compress.teachers.module_teacher import ModuleTeacher
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.teacher import Teacher, batch_of
from medfm_compress.compress.training.device import best_precision
from medfm_compress.compress.training.distributed import agree, is_first
from medfm_compress.runtime.cpu import missing_flags, read_cpu
from medfm_compress.runtime.errors import InputError, MedfmError
from medfm_compress.runtime.golden_cases import relative_logit_error
from medfm_compress.runtime.progress import Progress
from medfm_compress.runtime.sessions.instruction_sets import BF16, U8S8

PRECISIONS = ("auto", "fp32", "bf16", "int8")
LIMITS: Mapping[str, float] = MappingProxyType({"fp32": 0.01, "bf16": 0.01, "int8": 0.05})
"""Largest relative logit error by precision."""
DENSE_LIMITS: Mapping[str, float] = MappingProxyType({"fp32": 0.01, "bf16": 0.03, "int8": 0.05})
"""Likewise of maps. Kept at half the size, as is usual, they change by 0.025 besides (a lesion's U-Net at 256 px); bf16
changed those of the same network by 0.024, and either moved 6 of 10,000 pixels across the border."""
WORTH = 512
"""Outputs from which on converting a network takes less time than it saves."""
_PROBES = 2  # batches that are compared
_CALIBRATION = 8  # batches that INT8 is calibrated on
_SLOWER = 1.1  # as slow as PyTorch, within what a shared machine adds
_EFFORT = Effort(least_rounds=3, most_rounds=10, seconds=1.0)  # of a batch, in turns with PyTorch


class Asked(NamedTuple):
    """What a teacher will be asked for.

    Attributes:
        cases: how many.
        inputs: (rows ``[b]``) → the images ``[b, c, h, w]`` in [0, 1] of these cases, and their columns.
        features: names of those that will be collected.
        views: of each case.
    """

    cases: int
    inputs: Callable[[NDArray[np.int64]], Inputs]
    features: tuple[str, ...]
    views: int

    def spread(self, most: int) -> Inputs:
        """Up to ``most`` of the cases, evenly spaced: the same ones in every run."""
        count = min(most, self.cases)
        return self.inputs(np.linspace(0, self.cases - 1, count).round().astype(np.int64))


class Probe(NamedTuple):
    """Cases to compare on, and the outputs of PyTorch in fp32 on them.

    Attributes:
        inputs: images ``[n, c, h, w]`` float32 in [0, 1], and columns.
        features: names of those that will be collected.
        reference: the teacher in PyTorch fp32.
        outputs: its logits and features on ``inputs``.
    """

    inputs: Inputs
    features: tuple[str, ...]
    reference: ModuleTeacher
    outputs: TeacherOutputs


def fastest_engine(
    teacher: Teacher,
    asked: Asked,
    precision: str,
    progress: Progress,
) -> Teacher:
    """The same teacher in the fastest engine and precision that stay faithful here.

    Args:
        teacher: one that is no PyTorch module comes back as it is; of an ensemble each member is replaced.
        asked: what outputs will be collected on; some of it is compared.
        precision: ``auto``, ``fp32`` (PyTorch), ``bf16`` or ``int8``; what fails falls back to PyTorch in fp32.
        progress: told what is used, how fast and how faithful it is, and why not something else.

    Raises:
        InputError: an unknown precision.
        ModelError: logits that are not finite even in fp32.
    """
    if precision not in PRECISIONS:
        raise InputError(f"teacher_precision is {precision!r}; it must be {', '.join(PRECISIONS)}")
    if isinstance(teacher, EnsembleTeacher):
        return EnsembleTeacher(
            [fastest_engine(member, asked._replace(features=()), precision, progress) for member in teacher.teachers]
        )
    if not isinstance(teacher, ModuleTeacher):
        return teacher
    reference = in_pytorch(teacher, "fp32")
    worth = asked.cases * asked.views >= WORTH
    openers = _candidates(teacher, precision, worth=worth) if precision != "fp32" else {}
    calibration = partial(asked.spread, _CALIBRATION * batch_of(teacher.card.task))
    builder = _EngineBuilder(teacher, asked.features, calibration)
    if is_first():
        name, fastest = _fastest(openers, builder, partial(_probe, reference, asked), progress)
        agree(name)
        if fastest is None:
            progress(f"teacher: {reference.engine}")
        return fastest or reference
    name = agree("")  # what the first process chose: every shard comes from one engine
    return openers[name](builder) if name else reference


def _fastest(
    openers: Mapping[str, _Opener], builder: _EngineBuilder, make_probe: Callable[[], Probe], progress: Progress
) -> tuple[str, Teacher | None]:
    """The first candidate that may stand in, with its name; an empty one and None where there is none."""
    probes: list[Probe] = []  # made at most once, and not at all without candidates
    for name, make in openers.items():
        probes = probes or [make_probe()]
        outcome = _check_faithful(partial(make, builder), probes[0])
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
        speedup: over PyTorch in fp32, a batch at a time.
    """

    teacher: Teacher
    error: float
    speedup: float

    def __str__(self) -> str:
        return (
            f"{self.teacher.engine}, {self.speedup:.1f} times as fast as pytorch fp32, "
            f"relative logit error {self.error:.2g}"
        )


class _EngineBuilder:
    """Makes the candidates; the network is exported once for all of them, when the first one needs it."""

    def __init__(self, teacher: ModuleTeacher, features: tuple[str, ...], calibration: Callable[[], Inputs]) -> None:
        self.teacher, self.features, self._calibration = teacher, features, calibration

    @cached_property
    def graph(self) -> bytes:
        return export_graph(self.teacher.model, self.features)

    def openvino(self, precision: str) -> OpenVinoTeacher:
        return OpenVinoTeacher(self.teacher, [self.graph], self.features, precision)

    def openvino_int8(self, rest: str) -> OpenVinoTeacher:
        spec = self.teacher.model.spec
        mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (spec.mean, spec.std))
        files = quantized_graph(self.graph, ((images_in(self._calibration()) - mean) / std).numpy())
        return OpenVinoTeacher(self.teacher, files, self.features, rest)

    def pytorch(self, precision: str) -> ModuleTeacher:
        return in_pytorch(self.teacher, precision)


_Opener = Callable[[_EngineBuilder], Teacher]


def _candidates(teacher: ModuleTeacher, precision: str, *, worth: bool) -> dict[str, _Opener]:
    """Engines to try by name, the fastest first."""
    openers: dict[str, _Opener] = {}
    cpu = read_cpu()
    has_bf16 = not missing_flags(BF16, cpu)
    if teacher.device == "cpu" and worth and not teacher.card.told:  # its graph has the image alone
        if precision == "int8" and not missing_flags(U8S8, cpu):
            rest = "int8-bf16" if has_bf16 else "int8"
            openers["openvino int8"] = lambda builder: builder.openvino_int8(rest)
        if has_bf16:
            openers["openvino bf16"] = lambda builder: builder.openvino("bf16")
        if precision == "auto":
            openers["openvino fp32"] = lambda builder: builder.openvino("fp32")
    if precision == "bf16" or best_precision("auto", teacher.device) == "bf16":
        openers["pytorch bf16"] = lambda builder: builder.pytorch("bf16")
    return openers


def in_pytorch(teacher: ModuleTeacher, precision: str) -> ModuleTeacher:
    """The same module in another precision."""
    return teacher if teacher.precision == precision else ModuleTeacher(teacher.model, teacher.device, precision)


def _probe(reference: ModuleTeacher, asked: Asked) -> Probe:
    chosen = asked.spread(_PROBES * batch_of(reference.card.task))
    return Probe(chosen, asked.features, reference, TeacherOutputs(*_outputs(reference, chosen, asked.features)))


def _check_faithful(make: Callable[[], Teacher], probe: Probe) -> Faithful | str:
    """The candidate, or why not."""
    try:
        teacher = make()
        logits, features = _outputs(teacher, probe.inputs, probe.features)
    except MedfmError as exc:
        return str(exc)
    task = teacher.card.task
    error = relative_logit_error(logits.numpy(), probe.outputs.logits.numpy(), task)
    limit = (DENSE_LIMITS if task.is_dense else LIMITS)[_kind(teacher.engine)]
    if not error <= limit:
        return f"relative logit error {error:.2g} on {len(probe.inputs)} images, allowed is {limit:g}"
    for name, values in features.items():
        if not torch.isfinite(values).all():
            return f"feature {name!r} is not finite"
    batch = probe.inputs[: batch_of(task)]
    calls = [partial(candidate.answer, batch, probe.features) for candidate in (probe.reference, teacher)]
    reference_ms, candidate_ms = interleaved_p50_ms(calls, _EFFORT)
    if candidate_ms > reference_ms * _SLOWER:
        return f"{candidate_ms / reference_ms:.1f} times the time of {probe.reference.engine}"
    return Faithful(teacher, error, reference_ms / candidate_ms)


def _kind(engine: str) -> str:
    return engine.rsplit(maxsplit=1)[-1].partition("-")[0]


def _outputs(teacher: Teacher, inputs: Inputs, names: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    parts = [teacher.answer(part, names) for part in in_parts(inputs, batch_of(teacher.card.task))]
    features = {name: torch.cat([part.features[name] for part in parts]) for name in names}
    return torch.cat([part.logits for part in parts]), features
