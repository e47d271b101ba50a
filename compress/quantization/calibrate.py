"""Streaming calibration: one pass over the cases gives the statistics of every activation that may be quantized.

The activations are asked of ONNX Runtime as further outputs of the graph and are dropped once the statistics have seen
them: memory holds the network and one case a thread. Cases are shared out among threads, each of which computes one
alone (a core has more to do in one case than two cores in half of it); what they measured is added up in the order of
the cases, so that the sums do not depend on the number of threads. Every backend's placement and every range estimator
is served by the same pass. A value that only views another (a reshape, a transpose) shares its statistics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from medfm_compress.compress.quantization.activation_statistics import (
    CaseStatistics,
    RunningStatistics,
    Statistics,
    TensorStatistics,
    case_statistics,
)
from medfm_compress.compress.quantization.channel_rescaling import groups
from medfm_compress.compress.quantization.weights import WEIGHTED, is_constant, layers
from medfm_compress.export.passes.read import parse_onnx
from medfm_compress.runtime.errors import InputError, MedfmError
from medfm_compress.runtime.network_inputs import (
    NetworkInputs,
    columns_of,
    feed,
    images_of,
    joined,
    with_columns,
)
from medfm_compress.runtime.progress import Progress, no_progress
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime
from medfm_compress.runtime.threads import map_in_threads

if TYPE_CHECKING:
    import onnx_ir as ir

_QUANTIZABLE = frozenset(WEIGHTED) | {
    *("Add", "Sub", "Mul", "Concat", "Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Split", "Pad"),
}
_PRODUCTS = frozenset({"Gemm", "MatMul"})  # they give floats to what needs floats; a Conv always gives bytes
_VIEWS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_FLOAT_ONLY = frozenset({"Softmax", "LayerNormalization", "Gelu", "Erf", "InstanceNormalization", "GroupNormalization"})
_REPORT_EVERY = 50
_FATAL = 4


@dataclass(frozen=True)
class Probe:
    """A value to measure.

    Attributes:
        name: the value's.
        axis: of its channels where a weighted layer reads it or they can be rescaled, else None.
        views: names of values that hold the same numbers in another shape, before or after it.
    """

    name: str
    axis: int | None
    views: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Plan:
    """What calibration keeps of the graph, which itself is dropped once ONNX Runtime has it."""

    image: str
    columns: tuple[str, ...]
    batch: int
    probes: tuple[Probe, ...]
    makers: Mapping[str, str]  # value name → operator and node


class _Slice(NamedTuple):
    """What one run gave: how many cases, and value name → statistics, None where it is not finite."""

    cases: int
    statistics: dict[str, CaseStatistics | None]


def calibrate(
    onnx: bytes, inputs: Iterable[NetworkInputs], threads: int = 1, progress: Progress = no_progress
) -> Statistics:
    """Statistics of the activations that enter or leave an operator that some placement may quantize, by value name.

    Args:
        onnx: a serialized FP32 model with one image input, and columns beside it or none, its weights inside.
        inputs: batches of normalised images ``[n, C, H, W]`` with the columns, any n; they are run in slices of the
            graph's own batch size (1 where it is free; a last slice that is too short is filled up with its last case).
        threads: that each run a case.
        progress: hears how many cases are done.

    Raises:
        InputError: no input, inputs that the graph does not take, a model that ONNX Runtime does not load, or an
            activation that is NaN or infinite: it is named, with the operator that made it and the case.
    """
    plan, session = _prepared(onnx)
    running = {probe.name: RunningStatistics(probe.axis) for probe in plan.probes}
    count = 0

    def measure(numbered: tuple[int, NetworkInputs]) -> _Slice:
        return _measured(session, plan, *numbered)

    for part in map_in_threads(measure, enumerate(_runs(inputs, plan.batch)), threads):
        _add(running, part, plan, count)
        count += part.cases
        if count % _REPORT_EVERY < part.cases:
            progress(f"calibrated on {count} cases")
    if not count:
        raise InputError("calibration got no case; give at least one input")
    results = {name: statistics.result() for name, statistics in running.items()}
    statistics: dict[str, TensorStatistics] = {}
    for probe in plan.probes:
        if probe.name == plan.image:
            results[probe.name] = _unclipped(results[probe.name])
        statistics[probe.name] = results[probe.name]
        bare = replace(results[probe.name], channel_low=None, channel_high=None, channel_mean=None)
        statistics.update(dict.fromkeys(probe.views, bare))
    return statistics


def _unclipped(image: TensorStatistics) -> TensorStatistics:
    """The input, for which every estimator shall answer minmax: what an image saturates at is part of its contents."""
    return replace(image, mean_low=image.low, mean_high=image.high, counts=None)


def probes_of(model: ir.Model) -> tuple[Probe, ...]:
    """What to measure in ``model``, in the graph's order; values that are constant are left out."""
    channels: dict[str | None, int] = {}
    for layer in layers(model.graph):
        channels[layer.input.name] = 1 if layer.node.op_type.startswith("Conv") else -1
    for group in groups(model.graph):
        channels.update({value.name: group.axis for value in group.values})
    families: dict[str, list[ir.Value]] = {}
    roots: dict[str, str] = {}
    for value in _activations(model.graph):
        roots[_name(value)] = root = roots.get(_viewed(value), _name(value))
        families.setdefault(root, []).append(value)
    measured = [family for family in families.values() if any(map(_may_be_quantized, family))]
    return tuple(probe for family in measured for probe in _probes([_name(value) for value in family], channels))


def _probes(family: list[str], channels: Mapping[str | None, int]) -> Iterator[Probe]:
    """Values that hold the same numbers: those with channels are measured each, the others share the first's."""
    measured = [name for name in family if name in channels] or family[:1]
    yield Probe(measured[0], channels.get(measured[0]), tuple(name for name in family if name not in measured))
    yield from (Probe(name, channels[name]) for name in measured[1:])


def _activations(graph: ir.Graph) -> Iterator[ir.Value]:
    initializers = set(graph.initializers)
    yield from (value for value in graph.inputs if value.name not in initializers)
    for node in graph:
        yield from (value for value in node.outputs if value.const_value is None and _is_float(value))


def _is_float(value: ir.Value) -> bool:
    return value.name not in (None, "") and (value.dtype is None or value.dtype.name == "FLOAT")


def _may_be_quantized(value: ir.Value) -> bool:
    """Whether an operator with an INT8 form reads it, or makes it for something that could read it in INT8."""
    if _is_fused(value):
        return False
    readers = {use.node.op_type for use in value.uses()}
    if readers & _QUANTIZABLE:
        return True
    producer = value.producer()
    maker = "" if producer is None else producer.op_type
    return maker in _QUANTIZABLE and (maker not in _PRODUCTS or not readers <= _FLOAT_ONLY)


def _is_fused(value: ir.Value) -> bool:
    """Whether it exists between operators only that every backend runs as one: a layer's ReLU, a product's bias."""
    uses = list(value.uses())
    producer = value.producer()
    if len(uses) != 1 or producer is None:
        return False
    reader = uses[0].node
    adds = producer.op_type == "MatMul" and reader.op_type == "Add" and any(map(is_constant, reader.inputs))
    return adds or reader.op_type in ("Relu", "Clip")


def _viewed(value: ir.Value) -> str:
    """Name of the value that ``value`` shows in another shape; empty if it is no view."""
    producer = value.producer()
    source = producer.inputs[0] if producer is not None and producer.op_type in _VIEWS else None
    return "" if source is None else _name(source)


def _name(value: ir.Value) -> str:
    return str(value.name)


def _prepared(onnx: bytes) -> tuple[_Plan, Any]:
    """The plan, and a session whose outputs are the activations to measure."""
    import onnx as onnx_library
    import onnx_ir as ir

    try:
        proto = parse_onnx(onnx)
        model = ir.from_proto(proto)
    except MedfmError:
        raise
    except Exception as exc:
        raise InputError(f"the model cannot be read as ONNX: {_first_line(exc)}") from exc
    plan = _plan(model)
    del proto.graph.output[:]
    for name in [probe.name for probe in plan.probes if probe.name not in (plan.image, *plan.columns)]:
        proto.graph.output.add(name=name).type.tensor_type.elem_type = onnx_library.TensorProto.FLOAT
    content = proto.SerializeToString()
    del proto, model  # a second copy of the weights
    return plan, _session(content)


def _plan(model: ir.Model) -> _Plan:
    image, *columns = model.graph.inputs
    if any(value.shape is None or len(value.shape) != 2 for value in columns):
        names = [_name(value) for value in model.graph.inputs]
        raise InputError(f"the model has the inputs {names}; calibration takes one image, and columns [n, width]")
    shape = image.shape
    first = shape[0] if shape is not None and len(shape) else 1
    makers = {_name(value): f"{node.op_type} {node.name!r}" for node in model.graph for value in node.outputs}
    batch = first if isinstance(first, int) and first > 0 else 1
    return _Plan(_name(image), tuple(map(_name, columns)), batch, probes_of(model), makers)


def _session(content: bytes) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    options.log_severity_level = _FATAL
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise InputError(
            f"the model cannot be calibrated, ONNX Runtime does not load it: {_first_line(exc)}; export it with an "
            "opset that this ONNX Runtime knows"
        ) from exc
    if hasattr(session, "_model_bytes"):
        session._model_bytes = None  # kept for a fall-back that there is not: one more copy of the weights
    return session


def _runs(inputs: Iterable[NetworkInputs], size: int) -> Iterator[NetworkInputs]:
    for batch in inputs:
        images = images_of(batch)
        if images.ndim != 4:
            raise InputError(f"a calibration input has shape {images.shape}; give batches [n, C, H, W]")
        for start in range(0, len(batch), size):
            yield _contiguous(batch[start : start + size])


def _contiguous(batch: NetworkInputs) -> NetworkInputs:
    columns = {name: np.ascontiguousarray(rows, np.float32) for name, rows in columns_of(batch).items()}
    return with_columns(np.ascontiguousarray(images_of(batch), dtype=np.float32), columns)


def _measured(session: Any, plan: _Plan, turn: int, batch: NetworkInputs) -> _Slice:
    """Run ``batch``, the slice number ``turn``, and measure its activations."""
    missing = plan.batch - len(batch)
    filled = joined([batch, *[batch[-1:]] * missing]) if missing else batch
    names = [output.name for output in session.get_outputs()]
    given = feed((plan.image, *plan.columns), filled)
    try:
        outputs = session.run(names, given)
    except Exception as exc:
        raise InputError(f"the model does not take inputs {images_of(filled).shape}: {_first_line(exc)}") from exc
    values = {**given, **dict(zip(names, outputs, strict=True))}
    return _Slice(
        len(batch), {probe.name: case_statistics(values[probe.name], probe.axis, turn) for probe in plan.probes}
    )


def _add(running: Mapping[str, RunningStatistics], part: _Slice, plan: _Plan, case: int) -> None:
    """Add up what was measured of a slice, whose first case is number ``case``."""
    for name, measured in part.statistics.items():
        if measured is None:
            raise InputError(_not_finite(plan, name, case, part.cases))
        running[name].take(measured)


def _not_finite(plan: _Plan, name: str, case: int, count: int) -> str:
    cases = f"case {case}" if count == 1 else f"cases {case} to {case + count - 1}"
    if name in plan.columns:
        return f"the column {name!r} of calibration {cases} (counted from 0) is NaN or infinite; check its values"
    if name == plan.image:
        return f"the input {name!r} of calibration {cases} (counted from 0) is NaN or infinite; check that image"
    return (
        f"the activation {name!r}, made by {plan.makers[name]}, is NaN or infinite in calibration {cases} (counted "
        "from 0); check the weights before it, or leave that image out"
    )


def _first_line(exc: Exception) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__
