"""A bundle of an anomaly score made by hand: the brightest of 8 × 8 places, which place it is, and its second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle as tiny
from msgspec.structs import replace

from medfm_compress.runtime import golden_cases as goldens
from medfm_compress.runtime.bundle.bundle import write_bundle
from medfm_compress.runtime.bundle.manifest import Manifest, Tensor
from medfm_compress.runtime.image_spec import ImageSpec
from medfm_compress.runtime.nearest_cases import nearest_file
from medfm_compress.runtime.sessions.table import open_session_from_bytes
from medfm_compress.runtime.task import OperatingPoint, Task

PLACES = 8
POINT = OperatingPoint(
    label="abnormal",
    threshold=0.75,
    rule="false-alarm-rate<=0.05",
    sensitivity=0.0,
    specificity=0.95,
    positives=0,
    negatives=40,
)
TASK = Task(kind="anomaly", labels=("abnormal",), normal=("normal", "benign"), operating_points=(POINT,))
HASHES = tuple(f"{number + 1:064x}" for number in range(PLACES * PLACES))
LOGITS = Tensor(name="logits", role="logits", shape=(1, 1))
MAP = Tensor(name="anomaly_map", role="anomaly_map", shape=(1, 1, PLACES, PLACES))
NEAREST = Tensor(name="nearest", role="nearest", shape=(1, 2))


def network(beyond: float = 0.0, factor: float = 1.0) -> bytes:
    """ONNX: mean of every 4 × 4 pixels, times ``factor``; numbers of its two brightest places plus ``beyond``."""
    pytest.importorskip("onnx", reason="the tiny networks are written with onnx")
    from onnx import helper, numpy_helper

    node = helper.make_node
    nodes = [
        node("AveragePool", ["image"], ["mean"], kernel_shape=[4, 4], strides=[4, 4]),
        node("Mul", ["mean", "factor"], ["anomaly_map"]),
        node("Reshape", ["anomaly_map", "flat"], ["places"]),
        node("TopK", ["places", "two"], ["values", "rows"], axis=1),
        node("ReduceMax", ["places", "axis"], ["logits"], keepdims=1),
        node("Cast", ["rows"], ["numbers"], to=1),
        node("Add", ["numbers", "beyond"], ["nearest"]),
    ]
    constants = {
        "factor": np.float32(factor),
        "flat": np.array([1, PLACES * PLACES], np.int64),
        "two": np.array([2], np.int64),
        "axis": np.array([1], np.int64),
        "beyond": np.float32(beyond),
    }
    graph = helper.make_graph(
        nodes,
        "scored",
        [helper.make_tensor_value_info("image", 1, tiny.SPEC.shape)],
        [helper.make_tensor_value_info(tensor.name, 1, tensor.shape) for tensor in (LOGITS, MAP, NEAREST)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def draft(**changes: Any) -> Manifest:
    """A manifest as its maker hands it to `write_bundle`."""
    manifest = replace(tiny.draft((tiny.ORT,), TASK), outputs=(LOGITS, MAP, NEAREST))
    return replace(manifest, **changes)


def contents(model: bytes) -> dict[str, bytes]:
    """Members: the network, its goldens and the hashes of its training cases."""
    inputs = goldens.make_goldens(tiny.SPEC, count=2)
    session = open_session_from_bytes("onnxruntime", [model], 1, "fp32")
    logits = {tiny.ORT.name: goldens.run_goldens(session, inputs)}
    return {"model.onnx": model} | goldens.golden_files(inputs, logits, tiny.SPEC) | nearest_file(HASHES)


def bundle(path: Path, model: bytes | None = None, spec: ImageSpec = tiny.SPEC) -> Path:
    """Write it to ``path``."""
    write_bundle(path, draft(image_spec=spec), contents(model or network()))
    return path


def image(height: int = 64, width: int = 96) -> np.ndarray:
    """Dark grey, with a bright square in its lower left: rows 40 to 56, columns 6 to 24."""
    values = np.full((height, width), 60, np.uint8)
    values[40:56, 6:24] = 250
    return values
