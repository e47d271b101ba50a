"""What an ONNX file takes and gives, as ONNX Runtime sees it; the file may come from anywhere.

It is opened in a process of its own (see `external_models`): a file made to crash or to fill the memory then ends that
process and not the bench.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np

from medfm_compress.bench.measure.graph_ending import Ending, proven_ending
from medfm_compress.bench.measure.output_maker import Maker, maker_of_output
from medfm_compress.runtime.regular_file import read_regular
from medfm_compress.runtime.sessions.protocol import MAX_MODEL_BYTES

_RUNS = 8


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
        maker: what makes that output, see `maker_of_output`.
        endings: what that output is for exclusive labels and for independent findings; None where nothing proves it.
        values: of that output on made-up inputs, a row each.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    quantized: bool
    answer: tuple[int, ...] = ()
    maker: Maker = ""
    endings: tuple[Ending | None, Ending | None] = (None, None)
    values: tuple[tuple[float, ...], ...] = ()


def inspect_onnx(model: str, shape: Sequence[int], widths: Mapping[str, int] = MappingProxyType({})) -> OnnxGraph:
    """Read the ONNX file at path ``model`` and run it on made-up inputs ``shape`` where it takes them.

    Inputs called as ``widths`` has them are columns, float32 ``[1, width]``.

    Raises:
        InputError: the file cannot be read.
        BundleRefused: ONNX Runtime cannot load it, or its weights are in another file.
    """
    from medfm_compress.runtime.sessions.onnxruntime import from_bytes, holds_integers

    content = read_regular(model, MAX_MODEL_BYTES, "model")
    quantized = holds_integers(content)
    session = from_bytes([content], 1, "int8" if quantized else "fp32")
    inputs, outputs = session.ports()
    graph = OnnxGraph(
        inputs=tuple(_port(*port) for port in inputs),
        outputs=tuple(_port(*port) for port in outputs),
        quantized=quantized,
    )
    shapes = shapes_of(graph, shape, widths)
    if len(shapes) != len(graph.inputs) or not all(takes(port, shapes[port.name]) for port in graph.inputs):
        return graph
    random = np.random.default_rng(0)
    runs = []
    for strength in np.linspace(0.1, 3, _RUNS):
        noise = {name: random.standard_normal(sides, dtype=np.float32) for name, sides in shapes.items()}
        made_up = {name: (strength * values).astype(np.float32) for name, values in noise.items()}
        runs.append(session.run(made_up)[outputs[0][0]])
    graph = msgspec.structs.replace(graph, answer=runs[0].shape)
    if runs[0].ndim != 2:
        return graph
    values, maker = np.concatenate(runs).astype(np.float64), maker_of_output(content)
    return msgspec.structs.replace(
        graph,
        maker=maker,
        endings=(proven_ending(values, maker, exclusive=True), proven_ending(values, maker, exclusive=False)),
        values=tuple(tuple(row) for row in np.nan_to_num(values).tolist()),
    )


def image_of(graph: OnnxGraph, widths: Mapping[str, int]) -> Port | None:
    """The one input that no column is called like; None where there is not one."""
    images = [port for port in graph.inputs if port.name not in widths]
    return images[0] if len(images) == 1 else None


def shapes_of(graph: OnnxGraph, shape: Sequence[int], widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Input → shape that it must take: the image's, and of columns their width; none where the image is not plain."""
    image = image_of(graph, widths)
    if image is None:
        return {}
    columns = {port.name: (1, widths[port.name]) for port in graph.inputs if port.name in widths}
    return {image.name: tuple(shape), **columns}


def takes(port: Port, shape: Sequence[int]) -> bool:
    """Whether a port takes float32 of ``shape``."""
    return port.type == "tensor(float)" and fits(port.shape, shape)


def fits(sides: Sequence[int | None], shape: Sequence[int]) -> bool:
    """Whether a port with ``sides`` (None: free) takes ``shape``."""
    return len(sides) == len(shape) and all(side in (None, needed) for side, needed in zip(sides, shape, strict=True))


def _port(name: str, kind: str, sides: Sequence[Any]) -> Port:
    return Port(name=name, type=kind, shape=tuple(side if isinstance(side, int) else None for side in sides))
