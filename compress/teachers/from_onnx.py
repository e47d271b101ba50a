"""A teacher that is an ONNX file, run by ONNX Runtime on the CPU.

Where the graph ends in probabilities, logits are taken back out of them, p clamped to [1e-7, 1 − 1e-7]:

    z = log p                    softmax inside: rows in [0, 1] that sum to 1
    z = log p − log(1 − p)       sigmoid inside: the last operator is ``Sigmoid``
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medfm_compress.compress.teachers.label_mapping import UNKNOWN, LabelMap, settle
from medfm_compress.compress.teachers.module_teacher import finite
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.source import TeacherSource, spec_to_write
from medfm_compress.compress.teachers.teacher import TeacherCard
from medfm_compress.runtime.cpu import usable_cores
from medfm_compress.runtime.errors import BundleRefused, InputError, ModelError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions import onnxruntime
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.task import Task

Ending = Literal["logits", "softmax", "sigmoid"]

_BATCH = 32
_LEAST = 1e-7
_SUM_TOLERANCE = 1e-4
_FLOAT = "tensor(float)"
_PASSING = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Cast"})
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
        logits = to_logits(outputs, self._ending)
        return TeacherOutputs(logits if self._label_map is None else self._label_map(logits))


class OnnxGraph:
    """An ONNX file with one image input and one output ``[n, outputs]``."""

    def __init__(self, path: str) -> None:
        """Open it.

        Raises:
            ModelError: it is damaged, keeps weights in another file, or has other inputs or outputs.
        """
        self.name = Path(path).stem
        try:
            self.content = Path(path).read_bytes()
        except OSError as exc:
            raise ModelError(f"cannot read {path}: {exc.strerror}") from None
        self.precision = "int8" if onnxruntime.holds_integers(self.content) else "fp32"
        threads = max(1, min(torch.get_num_threads(), usable_cores()))
        try:
            self._session = onnxruntime.from_bytes([self.content], threads, self.precision)
        except BundleRefused as exc:
            raise ModelError(f"{path} cannot be a teacher: {exc}") from None
        self.input, self.output, self.shape = _ports(path, self._session)

    def run(self, images: Tensor) -> Tensor:
        """Outputs ``[n, outputs]`` float32 on normalised images ``[n, c, h, w]``; a short batch is filled up."""
        fixed = self.shape[0]
        outputs = []
        for part in torch.split(images.float(), fixed or _BATCH):
            batch = part if not fixed else torch.cat([part, part.new_zeros(fixed - len(part), *part.shape[1:])])
            values = self._session.run({self.input: batch.contiguous().numpy()})[self.output]
            outputs.append(torch.from_numpy(np.array(values, np.float32))[: len(part)])
        return torch.cat(outputs)


def open_onnx(source: TeacherSource, study: Task) -> OnnxTeacher:
    """The ONNX file as a teacher of a study.

    Raises:
        ModelError: a file that cannot be run, no spec or one that does not fit, or labels that cannot be the study's.
    """
    source.refuse("weights")
    graph = OnnxGraph(source.source)
    spec = source.given_spec()
    if spec is None:
        raise ModelError(_how_to_write(graph))
    _check_fits(graph, spec)
    outputs = _probe(graph, spec)
    ending = ending_of(outputs, _last_operator(graph.content))
    settled = settle(graph.name, outputs.shape[1], UNKNOWN, source, study)
    card = TeacherCard(
        name=graph.name,
        identity=f"{graph.name}@{_identity(graph, ending, settled.label_map, source.labels)}",
        spec=spec,
        task=settled.task,
        licence=source.licence,
        intended_use=source.intended_use,
        steps=(*((f"{graph.name}: {_STEPS[ending]}",) if ending in _STEPS else ()), *settled.steps),
    )
    return OnnxTeacher(graph, card, ending, settled.label_map)


def to_logits(outputs: Tensor, ending: Ending) -> Tensor:
    """Logits of what a graph gives."""
    if ending == "logits":
        return outputs
    p = outputs.double().clamp(_LEAST, 1 - _LEAST)
    return (p.log() if ending == "softmax" else p.log() - torch.log1p(-p)).float()


def ending_of(outputs: Tensor, last_operator: str) -> Ending:
    """What ``outputs`` ``[n, outputs]`` on noise are, given the operator that made them."""
    if not ((outputs >= 0) & (outputs <= 1)).all():
        return "logits"
    if outputs.shape[1] > 1 and ((outputs.sum(1) - 1).abs() < _SUM_TOLERANCE).all():
        return "softmax"
    return "sigmoid" if last_operator == "Sigmoid" else "logits"


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


def _last_operator(content: bytes) -> str:
    """Kind of the operator that makes the output, behind those that only pass values on; empty where it is unclear."""
    import onnx

    graph: Any = onnx.load_model_from_string(content).graph
    makers = {name: node for node in graph.node for name in node.output}
    node = makers.get(graph.output[0].name)
    while node is not None and node.op_type in _PASSING:
        node = makers.get(node.input[0])
    return str(node.op_type) if node is not None else ""


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
