"""A variant that ONNX Runtime runs, to be looked into: values are exposed and parts cut out in the file itself.

What a quantization gives is asked for in codes, which is what the fused kernel writes: exposing the real number before
it would make ONNX Runtime compute in float, and exposing what stands behind it would keep the next kernel from fusing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from medfm_compress.export.difference import onnx_wire as wire
from medfm_compress.export.difference.graph import (
    NO_CHANGE,
    Array,
    Change,
    Grid,
    Network,
    Node,
    Pair,
    Part,
    Run,
    Setting,
    Topology,
)
from medfm_compress.runtime.errors import BundleRefused, InputError, in_one_line, refusing
from medfm_compress.runtime.scratch_folder import scratch_folder
from medfm_compress.runtime.sessions import onnxruntime as backend
from medfm_compress.runtime.sessions.operators import is_ort_format

UNOPTIMISED, EXACT = "graph optimisation off", "exact U8S8 products"
SETTINGS = (
    Setting(UNOPTIMISED, "a fused or rewritten operator of ONNX Runtime's optimiser"),
    Setting(EXACT, "saturation: U8S8 products are summed in 16 bits on this CPU"),
)
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class OnnxNetwork:
    """See `graph.Network`."""

    backend: str = backend.BACKEND
    settings: tuple[Setting, ...] = SETTINGS

    def __init__(self, content: bytes, threads: int) -> None:
        """Index a checked ONNX file with its weights inside; one in the ORT format is turned back first.

        Raises:
            BundleRefused: ONNX Runtime does not turn it back.
        """
        self._threads = threads
        content = _from_ort_format(content) if is_ort_format(content) else content
        self._header = b"".join(field.raw for field in wire.fields(content) if field.number != wire.MODEL_GRAPH)
        self._graph = b"".join(field.content for field in wire.fields(content) if field.number == wire.MODEL_GRAPH)
        parts = list(wire.fields(self._graph))
        self.nodes = [wire.read_node(part.content) for part in parts if part.number == wire.GRAPH_NODE]
        self.initializers = {
            wire.name_of(part.content, wire.TENSOR_NAME): part.content
            for part in parts
            if part.number == wire.GRAPH_INITIALIZER
        }
        inputs = [wire.name_of(part.content) for part in parts if part.number == wire.GRAPH_INPUT]
        outputs = [wire.name_of(part.content) for part in parts if part.number == wire.GRAPH_OUTPUT]
        real = [name for name in inputs if name not in self.initializers]
        nodes = [Node(node.operator, node.name, node.inputs, node.outputs) for node in self.nodes]
        values = [*real, *self.initializers, *(name for node in nodes for name in node.outputs if name)]
        self.topology = Topology(nodes, real, outputs, {name: name for name in values})
        self._codes: dict[str, tuple[str, float, float]] = {}  # rounded value → its codes, scale and zero
        self._find_pairs()
        self._float16 = self._types()

    def expose(self, values: Sequence[str]) -> Run:
        """See `Network.expose`."""
        own = self.topology.outputs[:1]
        asked = [name for name in map(self._asked, values) if name not in self.topology.outputs]
        graph = self._graph + b"".join(wire.output_of(name) for name in dict.fromkeys(asked))
        return self._run(self._header + wire.message_field(wire.MODEL_GRAPH, graph), [*own, *values])

    def cut(self, part: Part, change: Change = NO_CHANGE, other: Network | None = None) -> Run:
        """See `Network.cut`; the input shapes are those of the first values that it is run on."""
        output = self._unrounded(part.output, change)
        sessions: dict[str, Run] = {}

        def run(values: Mapping[str, Array]) -> list[Array]:
            if "run" not in sessions:
                shapes = {name: values[name].shape for name in part.inputs}
                content = self.part_model(part, shapes, change, other)
                sessions["run"] = self._run(content, [output], change.setting, codes=not change.swapped)
            return sessions["run"]({name: values[name] for name in part.inputs})

        return run

    def part_model(
        self,
        part: Part,
        shapes: Mapping[str, tuple[int, ...]],
        change: Change = NO_CHANGE,
        other: Network | None = None,
    ) -> bytes:
        """A part as an ONNX file of its own.

        Raises:
            InputError: a node of it holds graphs of its own.
        """
        swapped, giver = dict(change.swapped), cast("OnnxNetwork | None", other)
        nodes, used = b"", set[str]()
        replaced = self._replaced_attributes(part, change, giver)
        for index in part.nodes:
            node = replaced.get(index, self.nodes[index])
            if node.nested:
                raise InputError(f"{node.operator} {node.name} holds a graph of its own")
            inputs = tuple(self._unrounded(name, change, fed=part.inputs) for name in node.inputs)
            used.update(inputs)
            nodes += wire.write_node(node._replace(inputs=inputs))
        constants = b""
        for name in used & self.initializers.keys():
            tensor = self.initializers[name]
            if name in swapped and giver is not None:
                tensor = wire.renamed(giver.initializers[swapped[name]], name)
            constants += wire.message_field(wire.GRAPH_INITIALIZER, tensor)
        kinds = {name: wire.FLOAT16 if name in self._float16 else wire.FLOAT32 for name in part.inputs}
        ends = b"".join(wire.input_of(name, shapes[name], kind) for name, kind in kinds.items())
        output = self._unrounded(part.output, change)
        ends += wire.output_of(output if change.swapped else self._asked(output))
        graph = nodes + wire.message_field(2, b"part") + constants + ends
        return self._header + wire.message_field(wire.MODEL_GRAPH, graph)

    def constants(self, names: Sequence[str]) -> list[Array]:
        """See `Network.constants`."""
        return [np.asarray(value, np.float32) for value in self._evaluated(names)]

    def _evaluated(self, names: Sequence[str]) -> list[Any]:
        if not names:
            return []
        nodes = {index for name in names for index in self.topology.part(name, ()).nodes}
        used = {name for index in nodes for name in self.nodes[index].inputs} | set(names)
        graph = b"".join(wire.write_node(self.nodes[index]) for index in sorted(nodes))
        graph += wire.message_field(2, b"constants")
        for name in used & self.initializers.keys():
            graph += wire.message_field(wire.GRAPH_INITIALIZER, self.initializers[name])
        graph += b"".join(wire.output_of(name) for name in names)
        session = self._session(self._header + wire.message_field(wire.MODEL_GRAPH, graph), "")
        with refusing(InputError, "onnxruntime cannot show a constant"):
            return list(session.run(list(names), {}))

    def _find_pairs(self) -> None:
        sources = {node.outputs[0]: index for index, node in enumerate(self.nodes) if node.operator == _QUANTIZE}
        reverses = [
            (index, node)
            for index, node in enumerate(self.nodes)
            if node.operator == _DEQUANTIZE and node.inputs[0] in sources
        ]
        names = [name for _, node in reverses for name in node.inputs[1:3]]
        quantizations = [self.nodes[sources[node.inputs[0]]] for _, node in reverses]
        names += [name for node in quantizations for name in node.inputs[1:3]]
        names = list(dict.fromkeys(names))
        values = dict(zip(names, self._evaluated(names), strict=True))
        for (index, node), before in zip(reverses, quantizations, strict=True):
            read, written = (_affine(half, values) for half in (node, before))
            if read is not None:
                self._codes[node.outputs[0]] = (node.inputs[0], *read[1:])
            grids = [None if found is None else found[0] for found in (read, written)]
            self.topology.add_pair(Pair(before.inputs[0], node.outputs[0], *grids), (sources[node.inputs[0]], index))

    def _replaced_attributes(self, part: Part, change: Change, giver: OnnxNetwork | None) -> dict[int, wire.WireNode]:
        """Nodes of ``part`` that take an attribute of the node of ``giver`` that is named in the change."""
        replaced: dict[int, wire.WireNode] = {}
        for index, name, theirs in change.attributes if giver is not None else ():
            assert giver is not None  # noqa: S101 - nothing is taken without a giver
            taken = giver.nodes[theirs].attributes
            node = replaced.get(index, self.nodes[index])
            own = {key: value for key, value in node.attributes.items() if key != name}
            replaced[index] = node._replace(attributes={**own, name: taken[name]} if name in taken else own)
        return replaced

    def _unrounded(self, name: str, change: Change, fed: Sequence[str] = ()) -> str:
        """``name``, or what it is rounded from where the change says so."""
        for source in change.unrounded:
            pair = self.topology.pairs.get(source)
            if pair is not None and pair.rounded == name and name not in fed:
                return source
        return name

    def _asked(self, value: str) -> str:
        """The name to ask ONNX Runtime for: the codes of a rounded value."""
        return self._codes[value][0] if value in self._codes else value

    def _run(self, content: bytes, values: Sequence[str], setting: str = "", *, codes: bool = True) -> Run:
        """A run that asks for codes where there are some, unless the constants that make numbers of them changed."""
        session = self._session(content, setting)
        asked = [self._asked(value) if codes else value for value in values]

        def run(inputs: Mapping[str, Array]) -> list[Array]:
            try:
                results = session.run(asked, {name: self._fed(name, value) for name, value in inputs.items()})
            except Exception as exc:
                raise InputError(f"onnxruntime cannot run a part of the network: {in_one_line(exc)}") from exc
            return [self._decoded(value, result, codes) for value, result in zip(values, results, strict=True)]

        return run

    def _fed(self, name: str, value: Array) -> Any:
        return value.astype(np.float16) if name in self._float16 else value

    def _types(self) -> frozenset[str]:
        """Note which values are real numbers, as ONNX Runtime infers them; those in float16 come back."""
        asked = [name for name in self.topology.reached if name not in (*self.topology.inputs, *self.topology.outputs)]
        graph = self._graph + b"".join(map(wire.output_of, asked))
        session = self._session(self._header + wire.message_field(wire.MODEL_GRAPH, graph), UNOPTIMISED)
        types = {end.name: end.type for end in (*session.get_inputs(), *session.get_outputs())}
        self.topology.reals = {name for name, kind in types.items() if kind in ("tensor(float)", "tensor(float16)")}
        return frozenset(name for name, kind in types.items() if kind == "tensor(float16)")

    def _decoded(self, value: str, result: Any, codes: bool) -> Array:
        if not codes or value not in self._codes:
            return np.asarray(result, np.float32)
        _, step, zero = self._codes[value]
        numbers: Array = (result.astype(np.float32) - np.float32(zero)) * np.float32(step)
        return numbers

    def _session(self, content: bytes, setting: str) -> Any:
        onnxruntime = backend.import_onnxruntime()
        options = backend.session_options(onnxruntime, self._threads)
        if setting == UNOPTIMISED:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if setting == EXACT:
            options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as exc:
            raise InputError(f"onnxruntime cannot open a part of the network: {in_one_line(exc)}") from exc


def _affine(half: wire.WireNode, constants: Mapping[str, Any]) -> tuple[Grid, float, float] | None:
    """Grid, step and zero of a QuantizeLinear or DequantizeLinear; None where it has more than one scale."""
    scale = constants[half.inputs[1]]
    zero = np.asarray(constants[half.inputs[2]] if len(half.inputs) > 2 else np.uint8(0))
    if scale.size != 1 or not np.issubdtype(zero.dtype, np.integer):
        return None
    step, offset, codes = float(scale.ravel()[0]), float(zero.ravel()[0]), np.iinfo(zero.dtype)
    return Grid(step, (codes.min - offset) * step, (codes.max - offset) * step), step, offset


def _from_ort_format(content: bytes) -> bytes:
    onnxruntime = backend.import_onnxruntime()
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        options = backend.session_options(onnxruntime, 1)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        try:
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            return path.read_bytes()
        except Exception as exc:
            raise BundleRefused(
                f"onnxruntime does not turn its own format back into ONNX ({in_one_line(exc)}); name the variant with "
                "the plain .onnx file"
            ) from exc
