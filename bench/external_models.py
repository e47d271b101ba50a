"""Models that other tools made, as models: any ONNX file, or a variant of another bundle.

A bundle brings its own preprocessing, labels and temperature. A bare ONNX file brings none: the preprocessing and the
labels of the bundle under test are assumed, and what can be checked is checked: one float32 input NCHW with a batch of
one or free, beside it inputs called like columns of the bundle and as wide, and a first output of one value a label.
What that output is, logits or probabilities, is proven by the
graph (see `graph_ending`) or said behind the path: ``FILE.onnx#logits``, ``#softmax`` or ``#sigmoid``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, cast

import msgspec
import numpy as np

from medfm_compress.bench.measure.graph_ending import ENDINGS, Ending, contradiction, disproof
from medfm_compress.bench.measure.latency import ModelUnderTest
from medfm_compress.bench.measure.onnx_io import OnnxGraph, Port, image_of, takes
from medfm_compress.bench.measure.requests import Inspect
from medfm_compress.bench.measure.worker_process import Worker
from medfm_compress.runtime.bundle.bundle import Bundle
from medfm_compress.runtime.bundle.manifest import Variant
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.errors import BundleRefused, InputError
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import SessionRef
from medfm_compress.runtime.sessions.table import BACKENDS, is_available
from medfm_compress.runtime.task import Task

BUNDLE_SUFFIX = ".medfm"
VARIANT_MARK = "#"
ONNX_SUFFIX = ".onnx"
_BUNDLE_OPENER = "medfm_compress.runtime.sessions.table:open_bundle_variant"
_UNDOING_OPENER = "medfm_compress.bench.measure.probability_session:open_session"
_INSPECTION_S = 120.0


def external_model(
    path: str | Path, spec: ImageSpec, task: Task, threads: int, columns: Sequence[Column] = ()
) -> ModelUnderTest:
    """A model from a file that another tool made; its name is the file's, without the suffix.

    Args:
        path: an ``.onnx`` file with its weights inside, run by ONNX Runtime, of which ``#logits``, ``#softmax`` or
            ``#sigmoid`` behind the path says what it gives (without it: what its graph proves); or a ``.medfm`` bundle,
            of which ``#name`` behind the path picks a variant (without it: the first whose engine is installed).
        spec: of the bundle under test, assumed for an ONNX file.
        task: likewise; operating points are not taken over, since another model's scores are on another scale.
        threads: of its engine, >= 1.
        columns: of the bundle under test; an ONNX file may take any of them, by their names.

    Raises:
        InputError: the file cannot be read, is neither of the two, or does not fit; says what it has and what it needs.
        MissingDependency: ONNX Runtime is not installed.
    """
    text = str(path)
    marked = any(suffix + VARIANT_MARK in text for suffix in (BUNDLE_SUFFIX, ONNX_SUFFIX))
    file, _, variant = text.rpartition(VARIANT_MARK) if marked else (text, "", "")
    if not Path(file).is_file():
        raise InputError(f"there is no external model {file}; give an .onnx file or a {BUNDLE_SUFFIX} bundle")
    if Path(file).suffix == BUNDLE_SUFFIX:
        return _from_bundle(Path(file).resolve(), variant, threads)
    if variant and variant not in ENDINGS:
        raise InputError(f"{text} says that the file gives {variant!r}; it must be one of {', '.join(ENDINGS)}")
    return _from_onnx(Path(file).resolve(), cast(Ending, variant), _Beside(spec, task, tuple(columns)), threads)


def _from_bundle(path: Path, name: str, threads: int) -> ModelUnderTest:
    try:
        bundle = Bundle.open(path)
    except BundleRefused as exc:
        raise InputError(f"the external model {path.name} cannot be used: {exc}") from exc
    variant = _choose(bundle, name)
    return ModelUnderTest(
        name=f"{path.stem} ({variant.name})",
        session=SessionRef(
            opener=_BUNDLE_OPENER, arguments={"bundle": str(path), "variant": variant.name, "threads": threads}
        ),
        spec=bundle.manifest.image_spec,
        task=bundle.manifest.task_of(variant),
        columns=bundle.manifest.told,
        size_bytes=bundle.variant_bytes(variant),
    )


def _choose(bundle: Bundle, name: str) -> Variant:
    """The variant called ``name``, or the first whose engine is installed."""
    variants = bundle.manifest.variants
    if name:
        usable = [variant for variant in variants if variant.name == name]
    else:
        usable = [variant for variant in variants if is_available(variant.backend, variant.device).ok]
    if usable:
        return usable[0]
    there = ", ".join(variant.name for variant in variants)
    lacking = f"no variant called {name!r}" if name else "no variant whose engine is installed"
    raise InputError(f"the external model {bundle.path.name} has {lacking}; it has {there}")


class _Beside(NamedTuple):
    """What an ONNX file must fit: of the bundle under test."""

    spec: ImageSpec
    task: Task
    columns: tuple[Column, ...]

    @property
    def widths(self) -> dict[str, int]:
        """Column → numbers that it is."""
        return {column.name: column.width for column in self.columns}


def _from_onnx(path: Path, said: Ending | Literal[""], beside: _Beside, threads: int) -> ModelUnderTest:
    spec, task, columns = beside
    with Worker(path.name, 1, _INSPECTION_S) as worker:
        graph = worker.ask(Inspect(model=str(path), shape=spec.shape, widths=beside.widths)).graph
    if graph is None:
        raise InputError(f"{path.name} could not be inspected")
    incompatibility = _incompatibility(graph, beside) or _not_logits(graph, said, path.name, task)
    if incompatibility:
        raise InputError(f"{path.name} cannot be an external model: {incompatibility}")
    ending = said or graph.endings[task.independent]
    arguments = {"model": str(path), "threads": threads, "precision": "int8" if graph.quantized else "fp32"}
    plain = SessionRef(opener=f"{BACKENDS['onnxruntime']}:open_session", arguments=arguments)
    undoing = SessionRef(opener=_UNDOING_OPENER, arguments={**arguments, "ending": ending})
    return ModelUnderTest(
        name=path.stem,
        session=plain if ending == "logits" else undoing,
        spec=spec,
        task=msgspec.structs.replace(task, temperature=1.0, operating_points=()),
        columns=tuple(column for column in columns if any(port.name == column.name for port in graph.inputs)),
        size_bytes=path.stat().st_size,
    )


def _incompatibility(graph: OnnxGraph, beside: _Beside) -> str:
    """Why the graph does not fit, in one sentence; empty where it does."""
    spec, task, columns = beside
    needed = f"float32 {_sides(spec.shape)} (batch, channels, height, width; the batch may be free)"
    taken = image_of(graph, beside.widths)
    if taken is None and columns:
        inputs = ", ".join(f"{port.name!r} {_described(port)}" for port in graph.inputs)
        return (
            f"its inputs are {inputs}; allowed are one image, {needed}, and beside it columns of the bundle by their "
            f"names: {', '.join(beside.widths)}"
        )
    if taken is None:
        return f"it has {len(graph.inputs)} inputs, one is allowed, {needed}; export it with the image alone"
    for port in graph.inputs:
        width = beside.widths.get(port.name)
        if width is not None and not takes(port, (1, width)):
            return f"its input {port.name!r} is {_described(port)}; the bundle's column is float32 {_sides((1, width))}"
    if not takes(taken, spec.shape):
        return (
            f"its input is {_described(taken)}, needed is {needed}; export it like that, without preprocessing inside"
        )
    labels = len(task.labels)
    if graph.answer != (1, labels):
        return (
            f"its first output is {_sides(graph.answer)} for one image, needed is {_sides((1, labels))}, a logit for "
            f"each of {', '.join(task.labels)}; export it with that output first"
        )
    return ""


def _not_logits(graph: OnnxGraph, said: Ending | Literal[""], name: str, task: Task) -> str:
    """Why its output cannot be read as logits of ``task``, in one sentence; empty where it can."""
    exclusive = not task.independent
    ending = said or graph.endings[not exclusive]
    if ending is None:
        return (
            "its output may be probabilities or logits, and nothing in its graph proves which; say it behind its path: "
            + ", ".join(f"{name}{VARIANT_MARK}{choice}" for choice in ENDINGS)
        )
    wrong = disproof(said, np.array(graph.values), exclusive=exclusive) if said else ""
    if wrong:
        return f"{VARIANT_MARK}{said} cannot be so: {wrong}; correct what stands behind its path"
    return contradiction(ending, "" if said else graph.maker, len(task.labels), exclusive=exclusive)


def _described(port: Port) -> str:
    kind = port.type.removeprefix("tensor(").removesuffix(")")
    return f"{'float32' if kind == 'float' else kind} {_sides(port.shape)}"


def _sides(sides: Sequence[int | None]) -> str:
    return f"[{', '.join('free' if side is None else str(side) for side in sides)}]"
