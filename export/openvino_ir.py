"""ONNX → OpenVINO IR: an ``.xml`` and a ``.bin``, the same bytes each time and without the machine's traces.

Weights stay in the precision of the ONNX file (no FP16 compression): the fp32 variant must be exact, and an INT8
model is already small.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any, NamedTuple

from medfm_compress.runtime.errors import MissingDependency, ModelError
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.runtime.sessions import openvino as backend
from medfm_compress.runtime.sessions.operators import read_self_contained


class Ir(NamedTuple):
    """The two files of an OpenVINO model."""

    xml: bytes
    weights: bytes


def to_openvino_ir(onnx: bytes) -> Ir:
    """Convert a serialized ONNX model.

    Raises:
        MissingDependency: OpenVINO is not installed.
        ModelError: OpenVINO cannot read the model, or a tensor of it lies in another file.
    """
    return serialise(read_onnx(onnx))


def read_onnx(onnx: bytes) -> Any:
    """The ``openvino.Model`` of a serialized ONNX model; raises like `to_openvino_ir`."""
    available = backend.is_available()
    if not available.ok:
        raise MissingDependency(available.reason)
    read_self_contained(onnx, "OpenVINO cannot read the ONNX model", ModelError)
    try:
        return backend.import_openvino().Core().read_model(onnx, b"")
    except RuntimeError as exc:
        message = " ".join(str(exc).split())[-200:]
        raise ModelError(f"OpenVINO cannot read the exported ONNX model: {message}") from exc


def serialise(model: Any) -> Ir:
    """Serialize an ``openvino.Model``; its operators are renamed by position, since OpenVINO numbers them anew."""
    openvino = backend.import_openvino()
    for number, operator in enumerate(model.get_ordered_ops()):
        operator.set_friendly_name(f"{operator.get_type_name()}_{number}")
    with scratch_folder() as folder:
        path = folder / "model.xml"
        openvino.save_model(model, path, compress_to_fp16=False)
        return Ir(_canonical(path.read_bytes()), path.with_suffix(".bin").read_bytes())


def _canonical(xml: bytes) -> bytes:
    """Drop the model's own rt_info (versions, conversion and quantization settings) and the white space."""
    root = ET.fromstring(xml)  # noqa: S314 - written by OpenVINO a moment ago
    root.set("name", "model")
    for about in root.findall("rt_info"):
        root.remove(about)
    for element in root.iter():
        if element.text is not None and not element.text.strip():
            element.text = None
        element.tail = None
    return b'<?xml version="1.0"?>\n' + ET.tostring(root)
