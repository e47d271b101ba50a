"""FP16, and BF16, on a CPU: the graph in FP32, its numbers rounded where a GPU would hold them in 16 bits.

An FP16 node reads inputs and constants rounded to FP16, computes in FP32 and rounds its result, to infinity beyond
65504 and to subnormals or 0 at the other end. So products accumulate in FP32, and LayerNormalization, softmax and
reductions are FP32 inside. A kernel that accumulates in FP16 is worse than what is shown here.

ONNX Runtime on a CPU cannot be given the FP16 graph itself: between two nodes that it runs in FP32 it drops the
rounding. A Cast to FP16 and back in an FP32 graph it keeps, where its optimiser is off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import add_constant, constant
from medfm_compress.export.passes.half_precision import FLOAT32_INPUTS, check_convertible, float_nodes, round_to
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime
from medfm_compress.runtime.sessions.protocol import Array, SessionInfo, as_float32

if TYPE_CHECKING:
    import onnx_ir as ir

SWITCHES = "computes_in_half"


class Emulation:
    """One FP32 graph in which any set of nodes can compute in FP16, chosen at each run.

    Attributes:
        nodes: names of the float nodes, in graph order.
        kinds: their operators.
    """

    def __init__(self, model: ir.Model, cases: NDArray[np.float32], threads: int = 1) -> None:
        """``model``: FP32, one input, static or free batch; ``cases``: ``[n, …]``, run at the graph's own batch."""
        nodes = float_nodes(model.graph)
        self.nodes = tuple(node.name or "" for node in nodes)
        self.kinds = tuple(node.op_type for node in nodes)
        self._cases = cases
        self._input = model.graph.inputs[0].name
        shape = model.graph.inputs[0].shape
        first = shape[0] if shape is not None else 1
        self._batch = first if isinstance(first, int) else len(cases)
        self._session = _session(with_switches(model), threads)
        self.runs = 0

    def logits(self, half: Collection[str]) -> NDArray[np.float32]:
        """The first output for all cases, with the nodes named ``half`` in FP16; ``[n, …]``."""
        self.runs += 1
        chosen = frozenset(half)
        switches = np.array([name in chosen for name in self.nodes])
        output = self._session.get_outputs()[0].name
        batches = [self._cases[i : i + self._batch] for i in range(0, len(self._cases), self._batch)]
        runs = [self._session.run([output], {self._input: batch, SWITCHES: switches})[0] for batch in batches]
        return np.concatenate(runs)


def with_switches(model: ir.Model) -> ir.Model:
    """A new FP32 graph with one more input, bool ``[float nodes]``: which of them compute in FP16.

    Raises:
        InputError: control flow, or a value whose type is unknown.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    switched = model.clone()
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(switched)
    check_convertible(switched)
    graph = switched.graph
    nodes = float_nodes(graph)
    switches = ir.Value(name=SWITCHES, shape=ir.Shape([len(nodes)]), type=ir.TensorType(ir.DataType.BOOL))
    rounded: dict[ir.Value, ir.Value] = {}
    for number, node in enumerate(nodes):
        index = add_constant(graph, f"{SWITCHES}_{number}", np.array(number))
        switch = _insert(graph, node, "Gather", [switches, index], f"{SWITCHES}_of_{number}")
        _round_inputs(graph, node, switch, rounded)
        _round_outputs(graph, node, switch)
    graph.inputs.append(switches)
    return switched


def emulated(model: ir.Model) -> ir.Model:
    """A new FP32 graph that rounds where the types of ``model`` say: for any FP16 or BF16 graph, whoever wrote it."""
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    plain = model.clone()
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(plain)
    graph = plain.graph
    for value in list(graph.initializers.values()):
        array = constant(value)
        if _is_half(value.dtype) and array is not None:
            single = add_constant(graph, f"{value.name}_single", array.astype(np.float32))
            value.replace_all_uses_with(single)
    for node in list(graph):
        results = [(value, value.dtype) for value in node.outputs if _is_half(value.dtype)]
        _in_float32(node)
        for value, kind in results:
            users = list(value.uses())
            _retype(value)
            _hand_over(graph, value, _rounded(graph, value, kind), users)
    return plain


class EmulatedSession:
    """A `Session` of the file of a GPU variant: FP32 on the CPU, rounded where the file's types say.

    Q/DQ pairs stand as they are, so that INT8 is computed as their definition says.
    """

    def __init__(self, content: bytes, threads: int) -> None:
        """``content``: of an ONNX file that was made here, its values typed; ``threads``: of the session."""
        import onnx
        import onnx_ir as ir

        self._session = _session(emulated(ir.from_proto(onnx.load_from_string(content))), threads)
        self.input_names: tuple[str, ...] = tuple(end.name for end in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(end.name for end in self._session.get_outputs())
        version = str(import_onnxruntime().__version__)
        self.info = SessionInfo(
            backend="onnxruntime", version=version, provider="emulation on the CPU", precision="fp32", threads=threads
        )

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once; see `Session.run`."""
        values = {name: as_float32(value) for name, value in inputs.items()}
        return dict(zip(self.output_names, self._session.run(None, values), strict=True))


def _is_half(kind: Any) -> bool:
    return kind is not None and kind.name in ("FLOAT16", "BFLOAT16")


def _retype(value: ir.Value) -> None:
    import onnx_ir as ir

    value.type = ir.TensorType(ir.DataType.FLOAT)


def largest_values(model: ir.Model, cases: NDArray[np.float32], threads: int = 1) -> dict[str, float]:
    """By node: the largest magnitude of its float results and of the activations that it reads, in FP32."""
    exposed = model.clone()
    nodes = float_nodes(exposed.graph)
    read = {node.name or "": _activations(node) for node in nodes}
    values = list(dict.fromkeys(value for entries in read.values() for value in entries))
    exposed.graph.outputs[:] = [value for value in values if value.producer() is not None]
    session, largest = _session(exposed, threads), dict.fromkeys(values, 0.0)
    name, by_name = session.get_inputs()[0].name, {value.name: value for value in values}
    for number in range(len(cases)):
        image = cases[number : number + 1]
        results = zip(session.get_outputs(), session.run(None, {name: image}), strict=True)
        for key, array in ((name, image), *((output.name, array) for output, array in results)):
            if key in by_name:
                largest[by_name[key]] = max(largest[by_name[key]], float(np.abs(array).max(initial=0)))
    return {node: max((largest[value] for value in entries), default=0.0) for node, entries in read.items()}


def _activations(node: ir.Node) -> list[ir.Value]:
    return [value for value in (*node.inputs, *node.outputs) if value is not None and _is_activation(value)]


def _is_activation(value: ir.Value) -> bool:
    import onnx_ir as ir

    maker = value.producer()
    is_constant = constant(value) is not None or (maker is not None and maker.op_type == "Constant")
    return value.dtype == ir.DataType.FLOAT and not is_constant


def run(model: ir.Model, cases: NDArray[np.float32], threads: int = 1) -> NDArray[np.float32]:
    """The first output of an emulated graph for all cases, one at a time."""
    session = _session(model, threads)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: cases[i : i + 1]})[0] for i in range(len(cases))])


def _in_float32(node: ir.Node) -> None:
    """Attributes that say FP16 or BF16."""
    import onnx_ir as ir

    for name in ("to", "dtype"):
        if name in node.attributes and node.attributes[name].value in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
            node.attributes[name] = ir.AttrInt64(name, int(ir.DataType.FLOAT))
    filled = node.attributes.get("value")
    if node.op_type == "ConstantOfShape" and filled is not None and _is_half(filled.as_tensor().dtype):
        numbers = filled.as_tensor().numpy().astype(np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(numbers))


def _round_inputs(graph: ir.Graph, node: ir.Node, switch: ir.Value, rounded: dict[ir.Value, ir.Value]) -> None:
    import onnx_ir as ir

    if node.op_type == "Cast":
        return
    for slot, value in enumerate(node.inputs):
        if value is None or value.dtype != ir.DataType.FLOAT or slot in FLOAT32_INPUTS.get(node.op_type, ()):
            continue
        if value not in rounded:
            array = None if value.is_graph_input() else constant(value)
            if array is None:
                rounded[value] = _rounded(graph, value)
            else:
                numbers = round_to(array, "fp16").astype(np.float32)
                rounded[value] = add_constant(graph, f"{value.name}_rounded", numbers)
        chosen = _insert(graph, node, "Where", [switch, rounded[value], value], f"{node.name}_input_{slot}")
        node.replace_input_with(slot, chosen)


def _round_outputs(graph: ir.Graph, node: ir.Node, switch: ir.Value) -> None:
    import onnx_ir as ir

    for value in node.outputs:
        users = list(value.uses())
        if value.dtype == ir.DataType.FLOAT and (users or value.is_graph_output()):
            half = _rounded(graph, value)
            chosen = _append(graph, half, "Where", [switch, half, value], f"{value.name}_switched")
            _hand_over(graph, value, chosen, users)


def _rounded(graph: ir.Graph, value: ir.Value, kind: Any = None) -> ir.Value:
    """Through FP16, or another ``kind``, and back, right behind its maker."""
    import onnx_ir as ir

    half = _append(graph, value, "Cast", [value], f"{value.name}_to_half", kind or ir.DataType.FLOAT16)
    return _append(graph, half, "Cast", [half], f"{value.name}_rounded")


def _append(
    graph: ir.Graph, after: ir.Value, op_type: str, inputs: list[ir.Value], name: str, kind: Any = None
) -> ir.Value:
    """A new node behind the maker of ``after``, at the start of the graph where that is an input; its result."""
    node = _made(op_type, inputs, name, kind)
    producer = after.producer()
    if producer is None:
        graph.insert_before(graph[0], [node])
    else:
        graph.insert_after(producer, [node])
    return node.outputs[0]


def _insert(graph: ir.Graph, before: ir.Node, op_type: str, inputs: list[ir.Value], name: str) -> ir.Value:
    node = _made(op_type, inputs, name, inputs[0].dtype if op_type == "Gather" else None)
    graph.insert_before(before, [node])
    return node.outputs[0]


def _made(op_type: str, inputs: list[ir.Value], name: str, kind: Any) -> ir.Node:
    import onnx_ir as ir

    kind = ir.DataType.FLOAT if kind is None else kind
    node = ir.node(op_type, inputs, {"to": int(kind)} if op_type == "Cast" else None, name=f"{name}_node")
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(kind)
    return node


def _hand_over(graph: ir.Graph, value: ir.Value, new: ir.Value, users: Sequence[Any]) -> None:
    """``users`` of ``value`` read ``new``, and the graph gives it under the old name, for no value else."""
    for user, slot in users:
        user.replace_input_with(slot, new)
    if value.is_graph_output():
        name = value.name
        value.name = f"{name}_before"
        end = _append(graph, new, "Identity", [new], f"{name}_end")
        end.name, end.shape, end.type = name, value.shape, value.type
        for number, output in enumerate(graph.outputs):
            if output is value:
                graph.outputs[number] = end


def _session(model: ir.Model, threads: int) -> Any:
    import onnx_ir as ir

    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # else roundings go
    options.log_severity_level = 3
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
