"""What an ONNX file takes and gives, as ONNX Runtime sees it; the file may come from anywhere.

It is opened in a process of its own (see `external_models`): a file made to crash or to fill the memory then ends that
process and not the bench.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from medfm_compress.runtime.errors import InputError

_SOFTMAX_TOLERANCE = 1e-4


class Port(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An input or output: name, ONNX Runtime's name of the type, and sides, None where a side is free."""

    name: str
    type: str
    shape: tuple[int | None, ...]


class OnnxGraph(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An ONNX file seen from outside.

    Attributes:
        inputs: in their order.
        outputs: in their order.
        quantized: whether it has operators of a quantized network.
        answer: shape of the first output for one made-up input; empty where that could not be tried.
        is_softmax: whether that output was probabilities that add up to 1, and not logits.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    quantized: bool
    answer: tuple[int, ...] = ()
    is_softmax: bool = False


def inspect_onnx(model: str, shape: Sequence[int]) -> OnnxGraph:
    """Read the ONNX file at path ``model`` and run it on made-up inputs ``shape`` where it takes them.

    Raises:
        InputError: the file cannot be read.
        BundleRefused: ONNX Runtime cannot load it, or its weights are in another file.
    """
    from medfm_compress.runtime.sessions.onnxruntime import from_bytes, holds_integers

    try:
        content = Path(model).read_bytes()
    except OSError as exc:
        raise InputError(f"cannot read {model}: {exc.strerror}") from None
    quantized = holds_integers(content)
    session = from_bytes([content], 1, "int8" if quantized else "fp32")
    inputs, outputs = session.ports()
    graph = OnnxGraph(
        inputs=tuple(_port(*port) for port in inputs),
        outputs=tuple(_port(*port) for port in outputs),
        quantized=quantized,
    )
    if len(graph.inputs) != 1 or graph.inputs[0].type != "tensor(float)" or not fits(graph.inputs[0].shape, shape):
        return graph
    random = np.random.default_rng(0)
    runs = [
        session.run({graph.inputs[0].name: random.standard_normal(tuple(shape), dtype=np.float32)})[outputs[0][0]]
        for _ in range(2)
    ]
    return msgspec.structs.replace(graph, answer=runs[0].shape, is_softmax=all(map(_sums_to_one, runs)))


def fits(sides: Sequence[int | None], shape: Sequence[int]) -> bool:
    """Whether a port with ``sides`` (None: free) takes ``shape``."""
    return len(sides) == len(shape) and all(side in (None, needed) for side, needed in zip(sides, shape, strict=True))


def _port(name: str, kind: str, sides: Sequence[Any]) -> Port:
    return Port(name=name, type=kind, shape=tuple(side if isinstance(side, int) else None for side in sides))


def _sums_to_one(values: np.ndarray[Any, Any]) -> bool:
    if values.ndim != 2 or values.shape[1] < 2:
        return False
    return bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=_SOFTMAX_TOLERANCE))
