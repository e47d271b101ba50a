"""Streaming calibration: one pass over the cases gives the statistics of every activation that may be quantized.

The activations are asked of ONNX Runtime as further outputs of the graph, one run at a time, and are dropped once the
statistics have seen them: memory holds the network and one case. Every backend's placement and every range estimator
is served by the same pass. A value that only views another (a reshape, a transpose) shares its statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.int8.statistics import RunningStatistics, Statistics
from medfm_compress.export.cases import Progress, unheard
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime

if TYPE_CHECKING:
    import onnx_ir as ir

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_QUANTIZABLE = WEIGHTED | {
    *("Add", "Sub", "Mul", "Concat", "Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Split", "Pad"),
}
_VIEWS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_FLOAT_ONLY = frozenset({"Softmax", "LayerNormalization", "Gelu", "Erf", "InstanceNormalization", "GroupNormalization"})
_REPORT_EVERY = 50
_FATAL = 4


@dataclass(frozen=True)
class Probe:
    """A value to measure.

    Attributes:
        name: the value's.
        axis: its channels' axis for a weighted layer that reads it, else None.
        views: names of values that hold the same numbers in another shape.
    """

    name: str
    axis: int | None
    views: tuple[str, ...] = ()


def calibrate(
    onnx: bytes, inputs: Iterable[NDArray[np.float32]], threads: int = 1, progress: Progress = unheard
) -> Statistics:
    """Statistics of the activations that enter or leave an operator that some placement may quantize, by value name.

    Args:
        onnx: a serialized FP32 model with one input and its weights inside.
        inputs: batches ``[n, C, H, W]`` of normalised inputs, any n; they are run in slices of the graph's own batch
            size (1 where it is free; a last slice that is too short is filled up with its last case).
        threads: of ONNX Runtime.
        progress: hears how many cases are done.

    Raises:
        InputError: no input, inputs that the graph does not take, a model that ONNX Runtime does not load, or an
            activation that is NaN or infinite: it is named, with the operator that made it and the case.
    """
    model = _parsed(onnx)
    probes = probes_of(model)
    session = _session(model, [probe.name for probe in probes], threads)
    running = {probe.name: RunningStatistics(probe.axis) for probe in probes}
    count = 0
    for batch in _runs(inputs, _batch_size(model)):
        _add(running, session, model, batch, count)
        count += len(batch)
        if count % _REPORT_EVERY < len(batch):
            progress(f"calibrated on {count} cases")
    if not count:
        raise InputError("calibration got no case; give at least one input")
    results = {name: statistics.result() for name, statistics in running.items()}
    return {name: results[probe.name] for probe in probes for name in (probe.name, *probe.views)}


def probes_of(model: ir.Model) -> tuple[Probe, ...]:
    """What to measure in ``model``, in the graph's order; values that are constant are left out."""
    asked = [value for value in _activations(model.graph) if _may_be_quantized(value)]
    channels = {value.name: _channel_axis(value) for value in asked}
    groups: dict[str, list[ir.Value]] = {}
    for value in asked:
        own = channels[value.name] is not None
        groups.setdefault(_name(value if own else _viewed(value, channels)), []).append(value)
    return tuple(
        Probe(name, channels.get(name), tuple(_name(value) for value in members if _name(value) != name))
        for name, members in groups.items()
    )


def _activations(graph: ir.Graph) -> Iterator[ir.Value]:
    initializers = set(graph.initializers)
    yield from (value for value in graph.inputs if value.name not in initializers)
    for node in graph:
        yield from (value for value in node.outputs if value.const_value is None and _is_float(value))


def _is_float(value: ir.Value) -> bool:
    return value.name not in (None, "") and (value.dtype is None or value.dtype.name == "FLOAT")


def _may_be_quantized(value: ir.Value) -> bool:
    readers = {use.node.op_type for use in value.uses()}
    producer = value.producer()
    if readers & _QUANTIZABLE:
        return True
    left = producer is not None and producer.op_type in _QUANTIZABLE | _VIEWS
    return left and bool(readers - _FLOAT_ONLY) and not (producer is not None and producer.op_type in _VIEWS)


def _channel_axis(value: ir.Value) -> int | None:
    """The axis of input channels for the weighted layers that read ``value`` as their first input."""
    readers = {use.node.op_type for use in value.uses() if use.idx == 0 and _is_weighted(use.node)}
    if not readers:
        return None
    return 1 if readers & {"Conv", "ConvTranspose"} else -1


def _is_weighted(node: ir.Node) -> bool:
    return node.op_type in WEIGHTED and len(node.inputs) > 1 and is_constant(node.inputs[1])


def is_constant(value: ir.Value | None) -> bool:
    """Whether the graph knows the value: an initializer, or the output of a Constant."""
    return value is not None and value.const_value is not None


def _viewed(value: ir.Value, channels: Mapping[str | None, int | None]) -> ir.Value:
    """The value that ``value`` shows in another shape: itself, or the first in its chain of views."""
    producer = value.producer()
    while producer is not None and producer.op_type in _VIEWS and producer.inputs[0] is not None:
        value = producer.inputs[0]
        if channels.get(value.name) is not None:
            break
        producer = value.producer()
    return value


def _name(value: ir.Value) -> str:
    return str(value.name)


def _parsed(onnx: bytes) -> ir.Model:
    import onnx as onnx_library
    import onnx_ir as ir

    try:
        return ir.from_proto(onnx_library.load_model_from_string(onnx))
    except Exception as exc:
        raise InputError(f"the model cannot be read as ONNX: {_first_line(exc)}") from exc


def _session(model: ir.Model, names: list[str], threads: int) -> Any:
    """A session whose outputs are the activations ``names``."""
    from onnx_ir import to_proto

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _FATAL
    try:
        content = to_proto(_with_outputs(model, names)).SerializeToString()
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise InputError(
            f"the model cannot be calibrated, ONNX Runtime does not load it: {_first_line(exc)}; export it with its "
            "weights inside and an opset that this ONNX Runtime knows"
        ) from exc


def _with_outputs(model: ir.Model, names: list[str]) -> ir.Model:
    clone = model.clone()
    graph = clone.graph
    inputs = {value.name for value in graph.inputs}
    values = {value.name: value for node in graph for value in node.outputs}
    graph.outputs.clear()
    graph.outputs.extend(values[name] for name in names if name not in inputs)
    return clone


def _batch_size(model: ir.Model) -> int:
    if len(model.graph.inputs) != 1:
        names = [value.name for value in model.graph.inputs]
        raise InputError(f"the model has the inputs {names}; calibration takes models with one image input")
    shape = model.graph.inputs[0].shape
    first = shape[0] if shape is not None and len(shape) else 1
    return first if isinstance(first, int) and first > 0 else 1


def _runs(inputs: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    for batch in inputs:
        if batch.ndim != 4:
            raise InputError(f"a calibration input has shape {batch.shape}; give batches [n, C, H, W]")
        for start in range(0, len(batch), size):
            yield np.ascontiguousarray(batch[start : start + size], dtype=np.float32)


def _add(
    running: Mapping[str, RunningStatistics], session: Any, model: ir.Model, batch: NDArray[np.float32], case: int
) -> None:
    """Run ``batch``, whose first case is number ``case``, and add its activations."""
    size = _batch_size(model)
    filled = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)]) if len(batch) < size else batch
    name = str(model.graph.inputs[0].name)
    names = [output.name for output in session.get_outputs()]
    try:
        outputs = session.run(names, {name: filled})
    except Exception as exc:
        raise InputError(f"the model does not take inputs {filled.shape}: {_first_line(exc)}") from exc
    values = {name: filled, **dict(zip(names, outputs, strict=True))}
    for key, statistics in running.items():
        if not statistics.add(values[key]):
            raise InputError(_not_finite(model, key, case, len(batch)))


def _not_finite(model: ir.Model, name: str, case: int, count: int) -> str:
    cases = f"case {case}" if count == 1 else f"cases {case} to {case + count - 1}"
    if name == model.graph.inputs[0].name:
        return f"the input {name!r} of calibration {cases} (counted from 0) is NaN or infinite; check that image"
    producer = next(node for node in model.graph for value in node.outputs if value.name == name)
    return (
        f"the activation {name!r}, made by {producer.op_type} {producer.name!r}, is NaN or infinite in calibration "
        f"{cases} (counted from 0); check the weights before it, or leave that image out"
    )


def _first_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__
