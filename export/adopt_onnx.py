"""A classifier's ONNX file from anywhere becomes the graph that a bundle holds, as `export_onnx` writes it.

    theirs: any batch, free sides, NHWC, FP16 weights, a softmax at the end, an old opset, labels in another order
    ours:   ``image`` [1, channels, height, width] → ``logits`` [1, labels], float32, opset 20 where it can be had

Each change keeps what the network computes; whoever calls compares the two on images (`parity`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from medfm_compress.export.onnx_export import INPUT, OPSET, OUTPUT, finished, simplified
from medfm_compress.export.onnx_file import read_facts
from medfm_compress.export.passes.features_output import FEATURES
from medfm_compress.export.passes.read import NEWEST_OPSET, OLDEST_OPSET, parse_onnx
from medfm_compress.runtime.errors import MedfmError, ModelError, in_one_line, refusing
from medfm_compress.runtime.sessions.table import open_session_from_bytes

if TYPE_CHECKING:
    from medfm_compress.runtime.image_spec import ImageSpec

Layout = Literal["nchw", "nhwc"]
_ENDS = ("Softmax", "Sigmoid")
_LEAST = 1e-7  # of a probability, as in `graph_ending`


class OutputMap(NamedTuple):
    """What becomes of a graph's outputs ``[1, outputs]``, or maps ``[1, outputs, height, width]``.

    Attributes:
        ending: what they are: ``logits``, or probabilities of a ``softmax`` or of ``sigmoid``.
        single: one output z of a binary network, made the pair (0, z).
        groups: outputs that mean each label, whose exponentials are added; empty leaves them as they are.
        background: maps that the background is made of; the logarithm of their sum is subtracted from the others.
        implied: whether the background has a logit of 0 besides.
    """

    ending: str = "logits"
    single: bool = False
    groups: tuple[tuple[int, ...], ...] = ()
    background: tuple[int, ...] = ()
    implied: bool = True


class Adopted(NamedTuple):
    """The graph, and what was changed, one line each."""

    content: bytes
    lines: tuple[str, ...]


def widen(content: bytes) -> bytes:
    """An FP16 network in FP32: every FP16 number is one of FP32, so that only rounding on the way is left out.

    Raises:
        ModelError: it cannot be read.
    """
    proto = parse_onnx(content)
    with refusing(ModelError, "FP16 cannot be widened, the file is damaged"):
        _widen_model(proto)
        return bytes(proto.SerializeToString())


def _widen_model(proto: Any) -> None:
    from onnx import TensorProto

    for graph in _graphs(proto.graph):
        for tensor in graph.initializer:
            _widen_tensor(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
                value.type.tensor_type.elem_type = TensorProto.FLOAT
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _widen_tensor(attribute.t)
                if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                    attribute.i = TensorProto.FLOAT


def without_ending(content: bytes) -> bytes | None:
    """The file without the softmax or sigmoid that makes its only output; None where none is its last operator.

    Raises:
        ModelError: it cannot be read.
    """
    proto = parse_onnx(content)
    output = proto.graph.output[0].name
    last = next((node for node in proto.graph.node if output in node.output), None)
    used = any(output in node.input for node in proto.graph.node)
    if last is None or last.op_type not in _ENDS or last.domain not in ("", "ai.onnx") or used:
        return None
    logits = last.input[0]
    proto.graph.node.remove(last)
    kept = [value for value in proto.graph.value_info if value.name != logits]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    proto.graph.output[0].name = logits
    return bytes(proto.SerializeToString())


def adopt_onnx(
    content: bytes, spec: ImageSpec, layout: Layout, outputs: OutputMap, labels: int, *, features: bool = False
) -> Adopted:
    """The graph that a bundle holds.

    Args:
        content: a float32 file with one image input and one output ``[n, outputs]``, or of maps, laid out as the input.
        spec: gives the sides of the input.
        layout: of the input.
        outputs: what they are, and which labels they mean.
        labels: of the result.
        features: whether the graph gets a second output of that name, where there is one (see `features_output`).

    Raises:
        ModelError: an opset that no engine here reads, a graph within a node, a batch or sides that stand in the graph
            itself, or operators that no engine here has.
    """
    import onnx

    proto = parse_onnx(content)
    facts = read_facts(content)
    lines = [f"ONNX of opset {facts.opset}" + (f" by {facts.producer}" if facts.producer else "")]
    _fix_sides(proto, facts.inputs[0].name, spec, layout)
    proto, converted = _with_opset(proto, facts.opset)
    with refusing(ModelError, "the graph cannot be taken over"):
        if proto.functions:
            proto = onnx.inliner.inline_local_functions(proto)
        _rename(proto.graph, facts.inputs[0].name)
        dense = len(facts.outputs[0].shape or ()) == 4
        _join(proto.graph, layout, outputs, dense=dense)
        _state_ports(proto.graph, spec, (1, labels, *spec.shape[2:]) if dense else (1, labels))
        inferred = _inferred(proto, spec)
        proto = simplified(inferred, features=features)
    nested = read_facts(proto.SerializeToString()).nested
    if nested:
        raise ModelError(
            f"the graph has the operators {', '.join(nested[:3])}, which hold graphs of their own and decide at run "
            "time what is computed, so that nothing in them can be calibrated; export the network without branches and "
            "loops (torch.onnx.export with dynamo=True, or a fixed input size)"
        )
    lines += [line for line in (converted, _told(layout, outputs)) if line]
    return Adopted(finished(proto, spec), tuple(lines))


def _told(layout: Layout, outputs: OutputMap) -> str:
    parts = ["images go in as [n, height, width, channels]"] if layout == "nhwc" else []
    if outputs.ending != "logits":
        parts.append(f"logits are taken out of the probabilities of its {outputs.ending}")
    return ", ".join(parts)


def _widen_tensor(tensor: Any) -> None:
    from onnx import TensorProto, numpy_helper

    if tensor.data_type == TensorProto.FLOAT16:
        wide = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        tensor.CopyFrom(wide)


def _graphs(graph: Any) -> list[Any]:
    """The graph, and those within its nodes."""
    found, waiting = [], [graph]
    while waiting:
        at = waiting.pop()
        found.append(at)
        waiting += [
            inner
            for node in at.node
            for attribute in node.attribute
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
        ]
    return found


def _fix_sides(proto: Any, image: str, spec: ImageSpec, layout: Layout) -> None:
    """Batch 1 and the spec's sides; shapes that were noted for others go."""
    _, channels, height, width = spec.shape
    sides = (1, channels, height, width) if layout == "nchw" else (1, height, width, channels)
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    for value in proto.graph.input:
        if value.name == image:
            for dim, side in zip(value.type.tensor_type.shape.dim, sides, strict=True):
                dim.Clear()
                dim.dim_value = side
    del proto.graph.value_info[:]
    del proto.metadata_props[:]


def _with_opset(proto: Any, opset: int) -> tuple[Any, str]:
    """The model in the opset that is exported here, or in its own where it cannot be converted and engines read it.

    Raises:
        ModelError: neither.
    """
    import onnx

    if opset == OPSET or (opset > OPSET and opset <= NEWEST_OPSET):
        return proto, ""
    reason = f"the newest that is read is {NEWEST_OPSET}"
    if 0 < opset < OPSET:
        try:
            return onnx.version_converter.convert_version(proto, OPSET), f"converted from opset {opset} to {OPSET}"
        except Exception as exc:  # noqa: BLE001 -- the converter raises anything
            reason = in_one_line(exc)
        if opset >= OLDEST_OPSET:
            return proto, f"left in opset {opset}, since it cannot be converted: {reason}"
    raise ModelError(
        f"the graph has opset {opset or 'of no number'}, which cannot be converted to {OPSET}: {reason}; export it "
        f"again with opset_version={OPSET}"
    )


def _rename(graph: Any, image: str) -> None:
    """Give input and output the names that a bundle's have; what has them already gets others."""
    renamed = {name: f"{name}_inner" for name in (INPUT, OUTPUT, FEATURES, f"{FEATURES}_shape") if name != image}
    renamed[image] = INPUT
    for at in _graphs(graph):
        for node in at.node:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        for value in (*at.input, *at.output, *at.initializer):
            value.name = renamed.get(value.name, value.name)


def _join(graph: Any, layout: Layout, outputs: OutputMap, *, dense: bool) -> None:
    """Operators before and behind theirs: the layout of the image, logits out of probabilities, labels."""
    from onnx import helper

    theirs = graph.output[0].name
    if layout == "nhwc":
        inner = f"{INPUT}_nhwc"
        for node in graph.node:
            node.input[:] = [inner if name == INPUT else name for name in node.input]
        graph.node.insert(0, helper.make_node("Transpose", [INPUT], [inner], "image/layout", perm=[0, 2, 3, 1]))
    behind = _Behind(graph, theirs)
    if dense and layout == "nhwc":
        behind.node("Transpose", [theirs], perm=[0, 3, 1, 2])
    if outputs.ending != "logits":
        behind.logits(outputs.ending)
    if outputs.single:
        behind.pair()
    maps = behind.value
    if outputs.groups:
        behind.groups(outputs.groups)
    if outputs.background:
        behind.minus_background(maps, outputs.background, implied=outputs.implied)
    behind.node("Identity", [behind.value], OUTPUT)


class _Behind:
    """Adds operators at the end of a graph; ``value`` is the last one's."""

    def __init__(self, graph: Any, value: str) -> None:
        self._graph, self.value = graph, value

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = output or f"outputs/{len(self._graph.node)}"
        self._graph.node.append(helper.make_node(kind, inputs, [name], name, **attributes))
        self.value = name
        return name

    def constant(self, values: Any) -> str:
        from onnx import numpy_helper

        name = f"outputs/constant{len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def logits(self, ending: str) -> None:
        """Z = log p, or log p − log(1 − p)."""
        low, high = (self.constant(np.float32(value)) for value in (_LEAST, 1 - _LEAST))
        p = self.node("Clip", [self.value, low, high])
        log = self.node("Log", [p])
        if ending == "sigmoid":
            rest = self.node("Sub", [self.constant(np.float32(1)), p])
            self.node("Sub", [log, self.node("Log", [rest])])

    def pair(self) -> None:
        """(0, z): what has one output has two labels."""
        z = self.value
        zero = self.node("Sub", [z, z])
        self.node("Concat", [zero, z], axis=1)

    def groups(self, groups: Sequence[tuple[int, ...]]) -> None:
        """Outputs in the order of the labels; log Σ exp of those that mean the same."""
        z = self.value
        if all(len(group) == 1 for group in groups):
            self.node("Gather", [z, self.constant(np.array([group[0] for group in groups], np.int64))], axis=1)
            return
        columns = []
        for group in groups:
            part = self.node("Gather", [z, self.constant(np.array(group, np.int64))], axis=1)
            axes = self.constant(np.array([1], np.int64))
            columns.append(self.node("ReduceLogSumExp", [part, axes], keepdims=1))
        self.node("Concat", columns, axis=1)

    def minus_background(self, maps: str, background: tuple[int, ...], *, implied: bool) -> None:
        """Z_k − log Σ exp of the maps of the background, e⁰ among them where it is implied."""
        structures, self.value = self.value, maps
        self.groups((background,))
        if implied:
            self.node("Softplus", [self.value])
        self.node("Sub", [structures, self.value])


def _state_ports(graph: Any, spec: ImageSpec, logits: tuple[int, ...]) -> None:
    from onnx import TensorProto, helper

    del graph.input[:], graph.output[:]
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, spec.shape))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, logits))


def _inferred(proto: Any, spec: ImageSpec) -> Any:
    """With the shapes of its values, which follow from those of the image; as far as they can be told where it runs.

    Raises:
        ModelError: it does not run on one image.
    """
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    except Exception as exc:  # noqa: BLE001 -- the library raises anything
        reason = in_one_line(exc)
    try:
        session = open_session_from_bytes("onnxruntime", [proto.SerializeToString()], 1, "fp32")
        session.run({INPUT: np.zeros(spec.shape, np.float32)})
    except MedfmError:
        raise ModelError(
            f"the graph does not take one image of the spec's size: {reason}; its batch or its sides stand in the "
            "graph itself: export it with batch 1 at that size"
        ) from None
    return onnx.shape_inference.infer_shapes(proto)
