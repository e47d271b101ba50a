"""An ONNX file as the network of a bundle: opened as a teacher is, then in the form that `export` gives."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from medfm_compress.bench.measure.graph_ending import Ending, logits_of_outputs
from medfm_compress.compress.teachers.description import read_description
from medfm_compress.compress.teachers.from_onnx import OnnxTeacher, open_onnx
from medfm_compress.compress.teachers.onnx_graph import OnnxGraph, check_fits, probe
from medfm_compress.compress.teachers.onnx_questions import noted_labels, open_questions
from medfm_compress.compress.teachers.source import TeacherSource
from medfm_compress.compress.teachers.structure_mapping import StructureMap, is_background
from medfm_compress.compress.teachers.teacher import TeacherCard
from medfm_compress.export.adopt_onnx import OutputMap, adopt_onnx, widen, without_ending
from medfm_compress.export.build import Network
from medfm_compress.export.onnx_file import read_facts, read_onnx_file, refuse_unfit
from medfm_compress.runtime.errors import ModelError, refusing
from medfm_compress.runtime.network_inputs import NetworkInputs, images_of
from medfm_compress.runtime.task import Task, TaskKind

_SAME = 1e-4  # of a probability, with its last operator and without it


class OnnxNetwork(NamedTuple):
    """The network, and what is known of it as of any teacher."""

    network: Network
    card: TeacherCard


def network_of_onnx(source: TeacherSource, study: Task | None, *, features: bool = False) -> OnnxNetwork:
    """The ONNX file of ``source`` as the network of a bundle.

    Args:
        source: the file, and what was said of it.
        study: gives the labels; without it they are the file's own, or are called by number.
        features: see `adopt_onnx`.

    Raises:
        UndescribedModel: something is not said; all of it is asked for at once.
        ModelError: a file that cannot be taken over, or what `open_onnx` refuses.
    """
    with refusing(ModelError, f"{source.source} cannot be taken over"):  # files come from anywhere
        return _network(source.described(), study, features=features)


def _network(source: TeacherSource, study: Task | None, *, features: bool) -> OnnxNetwork:
    source.refuse("weights")
    name = Path(source.source).stem
    content = read_onnx_file(source.source)
    facts = read_facts(content)
    refuse_unfit(name, facts)
    lines = []
    if facts.precision == "fp16":
        content = widen(content)
        lines.append("weights and arithmetic of FP16 widened to FP32, which changes no weight")
    if study is None:
        source, study = _without_study(source, content)
    teacher = open_onnx(source, study, content)
    return _adopted(teacher, lines, features=features)


def _without_study(source: TeacherSource, content: bytes) -> tuple[TeacherSource, Task]:
    """Labels of the file's own, and the task that they make."""
    if source.mapping:
        raise ModelError("a mapping of labels needs the study that they are mapped to; leave map out, or give --study")
    graph = OnnxGraph(source.source, content)
    kind = read_description(source.spec).beside.kind if source.spec else None
    spec = source.given_spec()
    if spec is not None:
        check_fits(graph, spec)
    questions = open_questions(graph, source, None, kind)
    if questions.lacking:
        raise questions.asked()
    count, ending = questions.known.outputs, source.outputs or questions.known.ending
    if graph.is_dense:
        return _structures_alone(source, graph, count)
    kind = kind or _kind(ending, count)
    labels = source.labels or noted_labels(read_facts(content).metadata, count) or _numbered(kind, count)
    if count == 1 and kind != "multilabel" and len(labels) == 1:
        labels = (f"no {labels[0]}", labels[0])
    if len(labels) != count and (count, len(labels), kind) != (1, 2, "binary"):
        raise ModelError(
            f"{graph.name} has {count} outputs, but {len(labels)} labels are given; give one for each output, in order"
        )
    return msgspec.structs.replace(source, labels=labels), Task(kind=kind, labels=labels)


def _structures_alone(source: TeacherSource, graph: OnnxGraph, count: int) -> tuple[TeacherSource, Task]:
    """Structures as they are named, the background not among them."""
    labels = source.labels or noted_labels(read_facts(graph.content).metadata, count)
    if len(labels) != count:
        raise ModelError(
            f"{graph.name} has {count} maps, and {len(labels)} labels are given; name each map in the labels of its "
            "--teacher-spec, one of the background 'background'"
        )
    structures = tuple(name for name in labels if not is_background(name))
    return msgspec.structs.replace(source, labels=labels), Task(kind="segmentation", labels=structures)


def _kind(ending: str, count: int) -> TaskKind:
    if ending == "sigmoid" and count > 1:
        return "multilabel"
    return "binary" if count <= 2 else "multiclass"


def _numbered(kind: TaskKind, count: int) -> tuple[str, ...]:
    if count == 1 and kind != "multilabel":
        return ("no output-0", "output-0")
    return tuple(f"output-{number}" for number in range(count))


def _adopted(teacher: OnnxTeacher, lines: list[str], *, features: bool) -> OnnxNetwork:
    """The teacher's graph in a bundle's form, and its own answers as what that must compute."""
    graph, card, ending = teacher.graph, teacher.card, teacher.ending
    bare = _without_ending(graph, ending, card) if ending != "logits" else None
    if bare is not None:
        lines.append(f"its {ending} taken off, so that logits come out")
        graph, ending = bare, "logits"
    label_map = teacher.label_map
    outputs = OutputMap(
        ending=ending,
        single=label_map is not None and label_map.single,
        groups=label_map.groups if label_map is not None else (),
        background=label_map.background if isinstance(label_map, StructureMap) else (),
        implied=label_map.implied if isinstance(label_map, StructureMap) else True,
    )
    adopted = adopt_onnx(graph.content, card.spec, graph.layout, outputs, len(card.task.labels), features=features)

    def reference(inputs: NetworkInputs) -> NDArray[np.float32]:
        values = graph.run(torch.from_numpy(images_of(inputs))).numpy()
        logits = torch.from_numpy(logits_of_outputs(values, ending))
        mapped: NDArray[np.float32] = (logits if label_map is None else label_map(logits)).numpy()
        return mapped

    steps = tuple(f"export: {line}" for line in (*adopted.lines, *lines))
    return OnnxNetwork(Network(adopted.content, reference, steps), card)


def _without_ending(graph: OnnxGraph, ending: Ending, card: TeacherCard) -> OnnxGraph | None:
    """The graph without its last operator, where that is what makes probabilities of logits; None where it is not."""
    content = without_ending(graph.content)
    if content is None:
        return None
    bare = OnnxGraph(f"{graph.name}.onnx", content)
    logits, given = probe(bare, card.spec).double(), probe(graph, card.spec).double()
    made = logits.softmax(1) if ending == "softmax" else logits.sigmoid()
    return bare if bool(((made - given).abs() <= _SAME).all()) else None
