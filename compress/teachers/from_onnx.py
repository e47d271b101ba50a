"""A teacher that is an ONNX file, run by ONNX Runtime on the CPU.

Where the graph ends in probabilities, logits are taken back out of them (see `graph_ending`); where it may, and nothing
proves it, ``--teacher-outputs`` must say what comes out.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medfm_compress.bench.measure.graph_ending import (
    Ending,
    contradiction,
    disproof,
    logits_of_outputs,
    proven_ending,
)
from medfm_compress.bench.measure.output_maker import maker_of_output
from medfm_compress.compress.teachers.label_mapping import UNKNOWN, LabelMap, settle
from medfm_compress.compress.teachers.module_teacher import finite
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.source import TeacherSource, spec_to_write
from medfm_compress.compress.teachers.steadiness import check_steady
from medfm_compress.compress.teachers.teacher import BATCH, TeacherCard
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.errors import BundleRefused, InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.sessions import onnxruntime
from medfm_compress.runtime.sessions.operators import read_operators
from medfm_compress.runtime.sessions.protocol import MAX_MODEL_BYTES
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.task import Task

_FLOAT = "tensor(float)"
_DYNAMIC = "DynamicQuantize"  # begins the names of operators that take their scale from the whole batch
_STEPS = {"softmax": "log of its softmax", "sigmoid": "log-odds of its sigmoid"}


class OnnxTeacher:
    """Answers with an ONNX graph, as many images at a time as its input takes."""

    def __init__(self, graph: OnnxGraph, card: TeacherCard, ending: Ending, label_map: LabelMap | None) -> None:
        self.card = card
        self.engine = f"onnxruntime {graph.precision}"
        self._graph, self._ending, self._label_map = graph, ending, label_map
        self._mean = torch.tensor(card.spec.mean).reshape(1, -1, 1, 1)
        self._std = torch.tensor(card.spec.std).reshape(1, -1, 1, 1)

    def answer(self, images: Tensor, features: tuple[str, ...] = ()) -> TeacherOutputs:
        """See `Teacher`; there are no features."""
        if features:
            raise InputError(
                f"feature {features[0]!r} cannot be had of {self.card.name}: an ONNX file gives logits only"
            )
        outputs = finite(self._graph.run((images - self._mean) / self._std), self.card.name)
        logits = torch.from_numpy(logits_of_outputs(outputs.numpy(), self._ending))
        return TeacherOutputs(logits if self._label_map is None else self._label_map(logits))


class OnnxGraph:
    """An ONNX file with one image input and one output ``[n, outputs]``."""

    def __init__(self, path: str) -> None:
        """Open it.

        Raises:
            InputError: it cannot be read.
            ModelError: it is damaged, keeps weights in another file, or has other inputs or outputs.
        """
        self.name = Path(path).stem
        self.content = read_regular(path, MAX_MODEL_BYTES, "teacher")
        self.precision = "int8" if onnxruntime.holds_integers(self.content) else "fp32"
        threads = max(1, min(torch.get_num_threads(), usable_cores()))
        try:
            self._session = onnxruntime.from_bytes([self.content], threads, self.precision)
        except BundleRefused as exc:
            raise ModelError(f"{path} cannot be a teacher: {exc}") from None
        self.input, self.output, self.shape = _ports(path, self._session)
        self._most = 1 if _scales_by_batch(self.content) else BATCH

    def run(self, images: Tensor) -> Tensor:
        """Outputs ``[n, outputs]`` float32 on normalised images ``[n, c, h, w]``; a short batch is filled up.

        Images go one at a time where the graph scales them by the largest of their batch, as dynamic quantization does.
        """
        fixed = self.shape[0]
        outputs = []
        for part in torch.split(images.float(), fixed or self._most):
            batch = part if not fixed else torch.cat([part, part.new_zeros(fixed - len(part), *part.shape[1:])])
            values = self._session.run({self.input: batch.contiguous().numpy()})[self.output]
            outputs.append(torch.from_numpy(np.array(values, np.float32))[: len(part)])
        return torch.cat(outputs)


def open_onnx(source: TeacherSource, study: Task) -> OnnxTeacher:
    """The ONNX file as a teacher of a study.

    Raises:
        ModelError: a file that cannot be run, no spec or one that does not fit, labels that cannot be the study's, or
            outputs that may be logits or probabilities, which nobody says, that cannot be the study's, or that depend
            on the other images of a batch or on chance.
    """
    source.refuse("weights")
    graph = OnnxGraph(source.source)
    spec = source.given_spec()
    if spec is None:
        raise ModelError(_how_to_write(graph))
    _check_fits(graph, spec)
    outputs = _probe(graph, spec)
    ending = _ending(graph, outputs, source, study)
    settled = settle(graph.name, outputs.shape[1], UNKNOWN, source, study)
    card = TeacherCard(
        name=graph.name,
        identity=f"{graph.name}@{_identity(graph, ending, settled.label_map, source.labels)}",
        spec=spec,
        task=settled.task,
        licence=source.licence,
        intended_use=source.intended_use,
        steps=(*_steps(graph, ending, source), *settled.steps),
    )
    teacher = OnnxTeacher(graph, card, ending, settled.label_map)
    check_steady(teacher)
    return teacher


def _ending(graph: OnnxGraph, outputs: Tensor, source: TeacherSource, study: Task) -> Ending:
    """What the graph's ``outputs`` ``[n, outputs]`` on noise are: as the user says, else as they prove to be.

    Raises:
        ModelError: nothing proves it, or it cannot be so.
    """
    exclusive, values = study.kind != "multilabel", outputs.numpy()
    maker = maker_of_output(graph.content)
    ending = source.outputs or proven_ending(values, maker, exclusive=exclusive)
    if ending is None:
        raise ModelError(_ask(graph.name))
    wrong = disproof(ending, values, exclusive=exclusive) if source.outputs else ""
    if wrong:
        raise ModelError(f"--teacher-outputs {ending} cannot be so for {graph.name}: {wrong}; correct the option")
    # Whoever says that they are logits knows better than the operator.
    against = contradiction(ending, "" if source.outputs else maker, outputs.shape[1], exclusive=exclusive)
    if against:
        raise ModelError(f"{graph.name} cannot teach this study: {against}")
    return ending


def _ask(name: str) -> str:
    return (
        f"{name} gives values that may be probabilities or logits, nothing in its graph proves which, and a wrong "
        "guess would be a silent wrong answer; say what its outputs are with --teacher-outputs logits, softmax "
        "(probabilities of exclusive labels) or sigmoid (probabilities of independent findings)"
    )


def _steps(graph: OnnxGraph, ending: Ending, source: TeacherSource) -> tuple[str, ...]:
    """What was done to the outputs, or said of them."""
    if ending in _STEPS:
        return (f"{graph.name}: {_STEPS[ending]}",)
    return (f"{graph.name}: outputs said to be logits",) if source.outputs else ()


def _scales_by_batch(content: bytes) -> bool:
    try:
        return any(kind.startswith(_DYNAMIC) for kind in read_operators(content).kinds)
    except ValueError:
        return False


def _ports(path: str, session: onnxruntime.OnnxRuntimeSession) -> tuple[str, str, tuple[int, ...]]:
    """Name of the input and of the output, and the input's sides; a free side is 0."""
    inputs, outputs = session.ports()
    if len(inputs) != 1 or len(outputs) != 1:
        names = ", ".join(port[0] for port in (*inputs, *outputs))
        raise ModelError(
            f"{path} has {len(inputs)} inputs and {len(outputs)} outputs ({names}); a teacher has one image input and "
            "one output of logits: export it again without the others"
        )
    (image, image_type, sides), (logits, logits_type, out) = inputs[0], outputs[0]
    if image_type != _FLOAT or logits_type != _FLOAT or len(sides) != 4 or len(out) != 2:
        raise ModelError(
            f"{path} maps {image_type} {list(sides)} to {logits_type} {list(out)}; a teacher maps float images "
            "[n, channels, height, width] to float logits [n, labels]"
        )
    return image, logits, tuple(side if isinstance(side, int) else 0 for side in sides)


def _check_fits(graph: OnnxGraph, spec: ImageSpec) -> None:
    sizes = graph.shape[1:]
    if any(side not in (0, size) for side, size in zip(sizes, spec.shape[1:], strict=True)):
        sides = "×".join(str(side or "any") for side in sizes)
        raise ModelError(
            f"{graph.name} takes images of {sides} (channels, height, width), and --teacher-spec describes "
            f"{'×'.join(map(str, spec.shape[1:]))}; correct the spec"
        )


def _probe(graph: OnnxGraph, spec: ImageSpec) -> Tensor:
    """Outputs on noise of several strengths."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(8, *spec.shape[1:], generator=generator) * torch.linspace(0.1, 3, 8).reshape(-1, 1, 1, 1)
    try:
        outputs = graph.run(noise)
    except InputError as exc:
        raise ModelError(f"{graph.name} cannot run on images of its spec: {exc}") from None
    return finite(outputs, graph.name)


def _how_to_write(graph: OnnxGraph) -> str:
    _, channels, height, width = graph.shape
    grey = channels == 1
    example = ImageSpec(
        height_px=height or 224,
        width_px=width or 224,
        colour="grey" if grey else "rgb",
        mean=(0.5,) * (1 if grey else 3),
        std=(0.25,) * (1 if grey else 3),
    )
    return (
        f"{graph.name} does not say how its images are prepared, and a wrong guess would be a silent wrong answer; "
        f"write a JSON file such as {spec_to_write(example)} with the values that it was trained with, and give it "
        "with --teacher-spec"
    )


def _identity(graph: OnnxGraph, ending: Ending, label_map: LabelMap | None, labels: tuple[str, ...]) -> str:
    """Sha256 of the file where it answers as it stands, else of the file and what is done to its answers."""
    file = hashlib.sha256(graph.content).hexdigest()
    if ending == "logits" and label_map is None:
        return file
    return digest([file, ending, label_map, labels])
