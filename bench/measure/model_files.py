"""A network held in memory, written where a fresh process can open it: a `ModelUnderTest` for `measure`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from medfm_compress.bench.measure.latency import ModelUnderTest
from medfm_compress.runtime.columns import Column
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.sessions.protocol import SessionRef
from medfm_compress.runtime.sessions.table import BACKENDS
from medfm_compress.runtime.task import Task

_SUFFIXES = {1: (".onnx",), 2: (".xml", ".bin")}  # by the number of files; ONNX Runtime knows its own format itself


class EngineFiles(NamedTuple):
    """What an engine opens.

    Attributes:
        backend: ``openvino``, ``onnxruntime`` or ``tensorrt``.
        contents: of its files: ``.xml`` and ``.bin``, or one.
        precision: to run it in.
        threads: of the session.
        device: that the backend drives.
        columns: that the network takes beside the image.
    """

    backend: str
    contents: tuple[bytes, ...]
    precision: str
    threads: int
    device: str = "cpu"
    columns: tuple[Column, ...] = ()


def write_model(stem: Path, name: str, files: EngineFiles, spec: ImageSpec, task: Task) -> ModelUnderTest:
    """Write ``files`` at ``stem`` with their suffixes.

    Args:
        stem: path without suffix, in a folder that exists and outlives the measurement.
        name: of the model, unique among those that are measured together.
        files: what the engine opens.
        spec: of its input.
        task: what its logits mean.
    """
    paths = [stem.with_name(stem.name + suffix) for suffix in _SUFFIXES[len(files.contents)]]
    for path, content in zip(paths, files.contents, strict=True):
        path.write_bytes(content)
    return model_at(paths[0], name, files, spec, task)


def model_at(path: Path, name: str, files: EngineFiles, spec: ImageSpec, task: Task) -> ModelUnderTest:
    """The model of ``files`` that were written already, the first of them at ``path``."""
    arguments: dict[str, object] = {"model": str(path), "threads": files.threads, "precision": files.precision}
    if files.backend == "onnxruntime":  # the others drive one device alone
        arguments["device"] = files.device
    return ModelUnderTest(
        name=name,
        session=SessionRef(opener=f"{BACKENDS[files.backend]}:open_session", arguments=arguments),
        spec=spec,
        task=task,
        size_bytes=sum(map(len, files.contents)),
        columns=files.columns,
    )
