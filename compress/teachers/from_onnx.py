"""A teacher that is an ONNX file, run by ONNX Runtime on the CPU.

Where the graph ends in probabilities, logits are taken back out of them (see `graph_ending`); where it may, and nothing
proves it, ``--teacher-outputs`` must say what comes out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
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
from medfm_compress.compress.networks.inputs import Inputs, map_images
from medfm_compress.compress.teachers.label_mapping import UNKNOWN, OutputsMap, settle
from medfm_compress.compress.teachers.module_teacher import finite
from medfm_compress.compress.teachers.onnx_graph import OnnxGraph, check_fits, probe, rows_of
from medfm_compress.compress.teachers.onnx_questions import open_questions
from medfm_compress.compress.teachers.outputs import TeacherOutputs
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.teachers.steadiness import check_steady
from medfm_compress.compress.teachers.structure_mapping import BACKGROUND, StructureMap
from medfm_compress.compress.teachers.teacher import TeacherCard
from medfm_compress.runtime.columns import Column, check_columns
from medfm_compress.runtime.errors import InputError, ModelError
from medfm_compress.runtime.strict_json import digest
from medfm_compress.runtime.task import Task
from medfm_compress.runtime.tasks.table import rules_of

_STEPS = {"softmax": "log of its softmax", "sigmoid": "log-odds of its sigmoid"}


class OnnxTeacher:
    """Answers with an ONNX graph, as many images at a time as its input takes."""

    def __init__(self, graph: OnnxGraph, card: TeacherCard, ending: Ending, label_map: OutputsMap | None) -> None:
        self.card = card
        self.engine = f"onnxruntime {graph.precision}"
        self.graph, self._ending, self.label_map = graph, ending, label_map
        self._mean = torch.tensor(card.spec.mean).reshape(1, -1, 1, 1)
        self._std = torch.tensor(card.spec.std).reshape(1, -1, 1, 1)

    @property
    def ending(self) -> Ending:
        """What the graph's outputs are."""
        return self._ending

    def answer(self, inputs: Inputs, features: tuple[str, ...] = ()) -> TeacherOutputs:
        """See `Teacher`; there are no features."""
        if features:
            raise InputError(
                f"feature {features[0]!r} cannot be had of {self.card.name}: an ONNX file gives logits only"
            )
        normalised = map_images(lambda images: (images - self._mean) / self._std, inputs)
        outputs = finite(self.graph.run(normalised), self.card.name)
        logits = torch.from_numpy(logits_of_outputs(outputs.numpy(), self._ending))
        return TeacherOutputs(logits if self.label_map is None else self.label_map(logits))


def open_onnx(source: TeacherSource, study: Task, content: bytes | None = None) -> OnnxTeacher:
    """The ONNX file as a teacher of a study; ``content`` stands for the file's own.

    Raises:
        ModelError: a file that cannot be run, no spec or one that does not fit, labels that cannot be the study's, or
            outputs that may be logits or probabilities, which nobody says, that cannot be the study's, or that depend
            on the other images of a batch or on chance.
    """
    source.refuse("weights")
    graph = OnnxGraph(source.source, content)
    spec = source.given_spec()
    columns = source.given_columns()
    _check_columns(graph, columns)
    if graph.is_dense != study.is_dense:
        if spec is not None:
            check_fits(graph, spec)
            probe(graph, spec)  # what gives no maps at all is said so
        raise ModelError(_other_kind(graph.name, study))
    if spec is not None:
        check_fits(graph, spec)
        rules_of(study).check_spec(study, spec)
    questions = open_questions(graph, source, study)
    if spec is None or len(questions.lacking) > 1:
        raise questions.asked()
    outputs = probe(graph, spec)
    ending = _ending(graph, outputs, source, study)
    settled = settle(graph.name, outputs.shape[1], UNKNOWN, source, study)
    if ending == "softmax":
        _require_background(graph.name, settled.label_map, study)
    card = TeacherCard(
        name=graph.name,
        identity=f"{graph.name}@{_identity(graph, ending, settled.label_map, source.labels)}",
        spec=spec,
        task=settled.task,
        licence=source.licence,
        intended_use=source.intended_use,
        steps=(*_steps(graph, ending, source), *settled.steps),
        columns=columns or msgspec.UNSET,
    )
    teacher = OnnxTeacher(graph, card, ending, settled.label_map)
    check_steady(teacher)
    return teacher


def _check_columns(graph: OnnxGraph, columns: Sequence[Column]) -> None:
    """Raises ModelError where the columns that were described are not the inputs that the graph has."""
    check_columns(columns)
    described = {column.name: column.width for column in columns}
    inputs = ", ".join(f"{name} [n, {width}]" for name, width in graph.widths.items()) or "none"
    if graph.widths and not described:
        raise ModelError(
            f"{graph.name} has inputs beside the image ({inputs}), and nothing says what they are; describe each under "
            "'columns:' in its --teacher-spec, as it was trained: kind, name, unit, minimum, maximum, mean, "
            "standard_deviation, or categories"
        )
    if set(described) != set(graph.widths):
        raise ModelError(
            f"{graph.name} has inputs beside the image ({inputs}), and the columns described are "
            f"{', '.join(described)}; each input needs a column of its name, and each column an input"
        )
    wrong = [name for name, width in described.items() if graph.widths[name] != width]
    if wrong:
        raise ModelError(
            f"{graph.name} takes {graph.widths[wrong[0]]} number(s) as {wrong[0]!r}, and the column described gives "
            f"{described[wrong[0]]}; correct its categories, or what a missing value becomes (missing: category adds "
            "one number)"
        )


def _ending(graph: OnnxGraph, outputs: Tensor, source: TeacherSource, study: Task) -> Ending:
    """What the graph's ``outputs`` ``[n, outputs]`` on noise are: as the user says, else as they prove to be.

    Raises:
        ModelError: nothing proves it, or it cannot be so.
    """
    exclusive, values = not study.independent, rows_of(outputs).numpy()
    if study.is_dense:
        exclusive = values.shape[1] > 1
    maker = maker_of_output(graph.content)
    ending = source.outputs or proven_ending(values, maker, exclusive=exclusive)
    if ending is None:
        raise ModelError(_ask(graph.name))
    wrong = disproof(ending, values, exclusive=exclusive) if source.outputs else ""
    if wrong:
        raise ModelError(f"--teacher-outputs {ending} cannot be so for {graph.name}: {wrong}; correct the option")
    # Whoever says that they are logits knows better than the operator.
    against = contradiction(ending, "" if source.outputs else maker, outputs.shape[1], exclusive=exclusive)
    if against and not (study.is_dense and ending == "sigmoid"):  # maps of sigmoids are one of the two usual forms
        raise ModelError(f"{graph.name} cannot teach this study: {against}")
    return ending


def _other_kind(name: str, study: Task) -> str:
    if study.is_dense:
        return (
            f"{name} gives one answer an image, which is no mask; a teacher of a segmentation gives a map of the "
            "image's size for each structure"
        )
    return f"{name} answers for every pixel and the study is {study.kind}; give a study with masks and its --structure"


def _require_background(name: str, label_map: OutputsMap | None, study: Task) -> None:
    """A softmax over structures alone calls every pixel one of them."""
    if study.is_dense and (not isinstance(label_map, StructureMap) or label_map.implied):
        raise ModelError(
            f"{name} ends in a softmax over its maps, and none of its labels is {BACKGROUND!r}; say which map is the "
            f"background's with --teacher-labels, e.g. {BACKGROUND},{','.join(study.labels)}"
        )


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


def _identity(graph: OnnxGraph, ending: Ending, label_map: OutputsMap | None, labels: tuple[str, ...]) -> str:
    """Sha256 of the file where it answers as it stands, else of the file and what is done to its answers."""
    file = hashlib.sha256(graph.content).hexdigest()
    if ending == "logits" and label_map is None:
        return file
    return digest([file, ending, label_map, labels])
