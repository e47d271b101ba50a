"""What an ONNX file leaves open, asked in one go: how images are prepared, what its outputs are and what they mean."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from medfm_compress.bench.measure.graph_ending import proven_ending
from medfm_compress.bench.measure.output_maker import maker_of_output
from medfm_compress.compress.teachers.description import Beside, Known, write_description
from medfm_compress.compress.teachers.onnx_graph import OnnxGraph, probe, rows_of
from medfm_compress.compress.teachers.source import TeacherSource, spec_to_write
from medfm_compress.export.onnx_file import OnnxFacts, read_facts
from medfm_compress.runtime.errors import ModelError, UndescribedModel
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.task import Task, TaskKind

_USUAL_PX = 224
_LABEL_KEYS = ("labels", "classes", "class_names", "names", "id2label", "categories")


class Questions(NamedTuple):
    """What is open.

    Attributes:
        graph: of the file.
        lacking: what it does not say, as parts of a sentence.
        known: what it does.
    """

    graph: OnnxGraph
    lacking: tuple[str, ...]
    known: Known

    def asked(self) -> UndescribedModel:
        """All of it as one error, with a description to fill in."""
        *most, last = self.lacking
        parts = f"{', '.join(most)} and {last}" if most else last
        example = spec_to_write(_example(self.graph))
        return UndescribedModel(
            f"{self.graph.name} does not say {parts}, and a wrong guess would be a silent wrong answer",
            f"write a file such as {example} with what it was trained with (other keys: labels, "
            "outputs, kind), and give it with --teacher-spec",
            f"{self.graph.name}.spec.yaml",
            write_description(self.known),
        )


def open_questions(
    graph: OnnxGraph, source: TeacherSource, study: Task | None, kind: TaskKind | None = None
) -> Questions:
    """What the file and ``source`` together leave open.

    Args:
        graph: of the file.
        source: what was said of it.
        study: that it is for; None where there is none, so that ``kind`` must be known.
        kind: of its labels, as the user says.
    """
    spec, facts = source.given_spec(), read_facts(graph.content)
    outputs = _outputs(graph, spec)
    exclusive = (study.kind if study else kind) != "multilabel"
    if graph.is_dense and outputs is not None:
        exclusive = outputs.shape[1] > 1
    ending = (
        proven_ending(rows_of(outputs).numpy(), maker_of_output(graph.content), exclusive=exclusive)
        if outputs is not None
        else None
    )
    count = outputs.shape[1] if outputs is not None else _stated_outputs(facts)
    lacking = []
    if spec is None:
        lacking.append("how its images are prepared")
    if study is not None and not source.labels:
        lacking.append(f"what its {count or ''} output(s) mean, in their order".replace("  ", " "))
    if not (source.outputs or ending):
        lacking.append("whether it gives logits or probabilities")
    if study is None and kind is None and (source.outputs or ending) not in ("softmax", "sigmoid"):
        lacking.append("whether its labels exclude each other")
    known = Known(
        name=graph.name,
        remarks=_remarks(facts),
        shape=graph.shape[1:],  # type: ignore[arg-type]
        outputs=count,
        ending=ending or "",
        labels=noted_labels(facts.metadata, count),
        study=study.labels if study else (),
        spec=spec,
        beside=Beside(labels=source.labels, outputs=source.outputs, kind=kind, licence=source.licence),
    )
    return Questions(graph, tuple(lacking), known)


def noted_labels(metadata: Mapping[str, str], outputs: int) -> tuple[str, ...]:
    """Names of all ``outputs`` that the file's metadata hold; empty where they hold none, or another number."""
    for key in _LABEL_KEYS:
        names = _names(metadata.get(key, ""))
        if outputs and len(names) == outputs and len(set(names)) == outputs and all(names):
            return names
    return ()


def _names(text: str) -> tuple[str, ...]:
    value: Any = None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    if isinstance(value, dict):
        try:
            value = [value[key] for key in sorted(value, key=int)]
        except (ValueError, TypeError):
            return ()
    if value is None and "," in text:
        value = text.split(",")
    return tuple(str(name).strip() for name in value) if isinstance(value, list | tuple) else ()


def _outputs(graph: OnnxGraph, spec: ImageSpec | None) -> Tensor | None:
    """On noise of the spec, or of the usual size where none is given; None where the graph does not run on it."""
    try:
        return probe(graph, spec or _example(graph))
    except ModelError:
        if spec is not None:
            raise
        return None


def _example(graph: OnnxGraph) -> ImageSpec:
    _, channels, height, width = graph.shape
    count = 1 if channels == 1 else 3
    return ImageSpec(
        height_px=height or _USUAL_PX,
        width_px=width or _USUAL_PX,
        colour="grey" if count == 1 else "rgb",
        mean=(0.5,) * count,
        std=(0.25,) * count,
    )


def _stated_outputs(facts: OnnxFacts) -> int:
    shape = facts.outputs[0].shape or ()
    return shape[1] if len(shape) in (2, 4) and isinstance(shape[1], int) else 0


def _remarks(facts: OnnxFacts) -> tuple[str, ...]:
    ports = f"input {', '.join(map(str, facts.inputs))}; output {', '.join(map(str, facts.outputs))}"
    maker = f", made by {facts.producer}" if facts.producer else ""
    noted = [f"noted in it: {key}: {' '.join(value.split())[:100]}" for key, value in facts.metadata.items()][:8]
    return (f"{ports}; {facts.precision}, opset {facts.opset}{maker}", *noted)
