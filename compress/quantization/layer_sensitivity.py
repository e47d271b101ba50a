"""How much each layer's own quantization moves the output: which layers to leave in float first.

A layer in INT8 adds δ = layer(x_q, W_q) − layer(x, W) to its result; the rest of the network, in float, carries δ to
the output. One session computes δ of every layer on a case in one run (the inputs are those of the float network, so
they are exact). A second one is the float network with an addend behind every layer, fed δ for the layer in question
and 0 for the others. That takes one float run a layer and case, and two sessions in all.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.qdq import Placement, affine
from medfm_compress.compress.quantization.weights import Layer, constant, layers, quantize_weight
from medfm_compress.export.passes.graph import SAME_AS, add_constant, graph_of
from medfm_compress.runtime.errors import InputError
from medfm_compress.runtime.network_inputs import NetworkInputs, feed
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime

if TYPE_CHECKING:
    import onnx_ir as ir

_FATAL = 4
_DELTA, _RATIO, _ADDEND = ":delta", ":ratio", ":addend"  # endings of names that the two sessions add to a layer's
_SPREAD_FLOOR, _ABSOLUTE_FLOOR = 0.01, 1e-6  # as in the relative logit error


class LayerError(NamedTuple):
    """A layer, and the error it makes alone.

    Attributes:
        name: of its node.
        error: relative logit error when only its input and weight are quantized; NaN where the time did not suffice.
        local: ‖δ‖ / ‖layer(x, W)‖, the mean over the cases; layers are measured, or ordered, by it where time is short.
    """

    name: str
    error: float
    local: float


class Place(Protocol):
    """Chooses a placement for a graph, as the modules ``placement_*`` do."""

    def __call__(self, model: ir.Model, exclude: Collection[str] = ()) -> Placement:
        """The placement; layers named in ``exclude`` stay in float."""
        ...


def rank_layers(
    model: ir.Model,
    ranges: Mapping[str, tuple[float, float]],
    place: Place,
    inputs: NetworkInputs,
    *,
    deadline: float | None = None,
    threads: int = 1,
) -> tuple[LayerError, ...]:
    """The layers that ``place`` quantizes, most harmful first.

    Those that time did not suffice for come last, by ``local``.

    Args:
        model: the float graph, whose inputs have 1 or a free number of cases.
        ranges: of its activations.
        place: where quantization would go.
        inputs: a few cases: images ``[n, C, H, W]``, and columns.
        deadline: `time.monotonic` at which to stop; layers with the largest local error are measured first.
        threads: of ONNX Runtime.
    """
    placement = place(model)
    names = [layer.name for layer in layers(model.graph) if layer.name in placement.layers]
    if not names or not len(inputs):
        return ()
    deltas = _session(_with_deltas(model, placement, ranges), threads)
    network = _Network(model, names, threads)
    reference = np.concatenate([network.run(inputs[i : i + 1]) for i in range(len(inputs))])
    tallies = {name: _Tally() for name in names}
    for i in range(len(inputs)):
        layer_deltas = _deltas(deltas, feed(network.inputs, inputs[i : i + 1]))
        for name, (_, size) in layer_deltas.items():
            tallies[name].local += size / len(inputs) if np.isfinite(size) else 0.0  # 0/0: a layer of zeros
        for name in sorted(names, key=lambda name: -tallies[name].local):
            if deadline is not None and time.monotonic() >= deadline:
                break
            tallies[name].add(network.run(inputs[i : i + 1], name, layer_deltas[name][0]) - reference[i])
    scale = logit_spread(reference)
    ranked = [LayerError(name, tally.mean() / scale, tally.local) for name, tally in tallies.items()]
    return tuple(sorted(ranked, key=lambda layer: (np.isnan(layer.error), -np.nan_to_num(layer.error), -layer.local)))


class _Tally:
    """Squared errors of one layer over the cases that time sufficed for."""

    def __init__(self) -> None:
        self.local = 0.0
        self._squares: list[float] = []

    def add(self, difference: NDArray[np.float32]) -> None:
        self._squares.append(float((difference.astype(np.float64) ** 2).sum()))

    def mean(self) -> float:
        """Root of the mean square a case; NaN without a case."""
        return float(np.sqrt(np.mean(self._squares))) if self._squares else float("nan")


class _Network:
    """The float network, with something added to the result of one layer."""

    def __init__(self, model: ir.Model, names: Collection[str], threads: int) -> None:
        self.inputs = [str(value.name) for value in model.graph.inputs]
        self._session = _session(_with_addends(model, names), threads)
        self._zeros = {f"{name}{_ADDEND}": np.zeros((), np.float32) for name in names}

    def run(
        self, case: NetworkInputs, name: str | None = None, delta: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Logits ``[1, labels]`` of ``case`` with ``delta`` added to the result of layer ``name``."""
        feeds = {**feed(self.inputs, case), **self._zeros}
        if name is not None and delta is not None:
            feeds[f"{name}{_ADDEND}"] = delta
        logits: NDArray[np.float32] = self._session.run(None, feeds)[0]
        return logits.reshape(1, -1)


def logit_spread(logits: NDArray[np.float32]) -> float:
    """Root of the mean over cases of ‖z − z̄‖², with the floors of the relative logit error."""
    z = logits.astype(np.float64)
    spread = float(np.linalg.norm(z - z.mean(axis=0)))
    return max(spread, _SPREAD_FLOOR * float(np.linalg.norm(z)), _ABSOLUTE_FLOOR) / float(np.sqrt(len(z)))


def _deltas(session: Any, feeds: dict[str, NDArray[np.float32]]) -> dict[str, tuple[NDArray[np.float32], float]]:
    """Of each layer: δ, and ‖δ‖ over the norm of its result."""
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    return {
        name.removesuffix(_DELTA): (delta, float(outputs[name.removesuffix(_DELTA) + _RATIO]))
        for name, delta in outputs.items()
        if name.endswith(_DELTA)
    }


def _with_deltas(model: ir.Model, placement: Placement, ranges: Mapping[str, tuple[float, float]]) -> ir.Model:
    """The float network with δ of every layer of ``placement``, and its relative norm, as outputs."""
    new = model.clone()
    outputs = []
    for layer in [layer for layer in layers(new.graph) if layer.name in placement.layers]:
        result = layer.node.outputs[0]
        delta = _append(new.graph, "Sub", (_twin(layer, placement, ranges), result), layer.name + _DELTA)
        norms = [_append(new.graph, "ReduceL2", (value,), keepdims=0) for value in (delta, result)]
        outputs += [delta, _append(new.graph, "Div", norms, layer.name + _RATIO)]
    new.graph.outputs.clear()
    new.graph.outputs.extend(outputs)
    return new


def _twin(layer: Layer, placement: Placement, ranges: Mapping[str, tuple[float, float]]) -> ir.Value:
    """The result of the layer with its input and weight through INT8."""
    import onnx_ir as ir

    graph = graph_of(layer.node)
    weight = constant(layer.weight)
    assert weight is not None  # noqa: S101 - a layer has a constant weight
    values, scales = quantize_weight(weight, layer.axis, reduced=placement.reduced)
    shape = [-1 if axis == layer.axis else 1 for axis in range(weight.ndim)]
    rounded = add_constant(graph, f"{layer.name}_rounded", values * scales.reshape(shape))
    inputs = [_through_int8(layer, placement, ranges), rounded, *layer.node.inputs[2:]]
    twin = ir.node(layer.node.op_type, inputs, {key: value.value for key, value in layer.node.attributes.items()})
    graph.append(twin)
    return twin.outputs[0]


def _through_int8(layer: Layer, placement: Placement, ranges: Mapping[str, tuple[float, float]]) -> ir.Value:
    value = layer.input
    if value.name not in placement.activations or layer.name in placement.floats:
        return value
    low, high = _range(value, dict(placement.ties), ranges)
    scale, zero = affine(low, high, signed=placement.is_signed(value.name or "", low, high))
    graph = graph_of(layer.node)
    constants = [
        add_constant(graph, f"{layer.name}_{what}", np.asarray(array))
        for what, array in (("step", scale), ("zero", zero))
    ]
    return _append(graph, "DequantizeLinear", (_append(graph, "QuantizeLinear", (value, *constants)), *constants))


def _range(value: ir.Value, ties: Mapping[str, str], ranges: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    name = str(value.name)
    for _ in range(len(ties) + 1):
        name = ties.get(name, name)
    for known in (name, value.metadata_props.get(SAME_AS, "")):
        if known in ranges:
            return ranges[known]
    raise InputError(f"no range is known for {value.name!r}: calibrate the graph that holds this value")


def _with_addends(model: ir.Model, names: Collection[str]) -> ir.Model:
    """The float network with one more input behind every layer of ``names``, to be added to its result."""
    import onnx_ir as ir

    new = model.clone()
    for layer in [layer for layer in layers(new.graph) if layer.name in names]:
        addend = ir.Value(name=layer.name + _ADDEND, type=ir.TensorType(ir.DataType.FLOAT))
        new.graph.inputs.append(addend)
        result = layer.node.outputs[0]
        total = ir.node("Add", [result, addend], name=f"{layer.name}_with_addend")
        result.replace_all_uses_with(total.outputs[0], replace_graph_outputs=True)
        total.replace_input_with(0, result)
        total.outputs[0].shape, total.outputs[0].type = result.shape, result.type
        graph_of(layer.node).insert_after(layer.node, total)
    return new


def _append(
    graph: ir.Graph, operator: str, inputs: Sequence[ir.Value], name: str | None = None, **attributes: int
) -> ir.Value:
    import onnx_ir as ir

    node = ir.node(operator, inputs, attributes)
    if name is not None:  # an output of the graph, which must say its type
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(ir.DataType.FLOAT)
    graph.append(node)
    return node.outputs[0]


def _session(model: ir.Model, threads: int) -> Any:
    import onnx_ir as ir

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = _FATAL
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
