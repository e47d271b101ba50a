"""A variant that OpenVINO runs, to be looked into: values are exposed and parts cut out of a copy of the model.

OpenVINO reads an ONNX pair as FakeQuantize → Convert to codes → Convert → Subtract → Multiply and makes one operator of
these again, so the rounded value is asked for behind the last of them: asking for codes would break them up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

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
from medfm_compress.runtime.sessions import openvino as backend

FLOAT32, ACCURATE, FLOAT_PRODUCTS = "float part in fp32", "execution mode accuracy", "without integer kernels"
SETTINGS = (
    Setting(FLOAT32, "arithmetic of less than fp32 (bf16 or fp16) in OpenVINO's float part"),
    Setting(ACCURATE, "an approximation that OpenVINO allows itself for speed"),
    Setting(FLOAT_PRODUCTS, "OpenVINO's integer kernels: where and how they round, or saturate"),
)
_CHANGES = {
    FLOAT32: {"INFERENCE_PRECISION_HINT": "f32"},
    ACCURATE: {"EXECUTION_MODE_HINT": "ACCURACY"},
    FLOAT_PRODUCTS: {"LP_TRANSFORMS_MODE": "NO"},
}
_NO_NODES = frozenset({"Parameter", "Constant", "Result"})
_REVERSE = ("Convert", "Subtract", "Multiply")


class _Found(NamedTuple):
    """A pair before its constants are known: source, rounded value, nodes, and what its grid is made of."""

    source: str
    rounded: str
    halves: tuple[int, ...]
    levels: int
    lowest: str
    highest: str
    low: str
    high: str
    zero: str = ""
    scale: str = ""


class OpenVinoNetwork:
    """See `graph.Network`."""

    backend: str = backend.BACKEND
    settings: tuple[Setting, ...] = SETTINGS

    def __init__(self, files: Sequence[bytes], threads: int, precision: str) -> None:
        """Index the checked files of a variant: an ONNX file, or an IR's ``.xml`` and ``.bin``.

        Raises:
            BundleRefused: OpenVINO does not read them.
        """
        self._openvino = backend.import_openvino()
        self._core = self._openvino.Core()
        self._configuration = backend.compile_properties(threads, precision)
        try:
            self._model = self._core.read_model(*files, *([b""] if len(files) == 1 else []))
        except (RuntimeError, TypeError, ValueError) as exc:
            raise BundleRefused(f"openvino cannot load the model: {in_one_line(exc)}") from exc
        ops = self._model.get_ordered_ops()
        for number, op in enumerate(ops):
            op.set_friendly_name(str(number))
        self._kinds = {str(number): op.get_type_name() for number, op in enumerate(ops)}
        self._levels = {
            str(number): int(op.get_attributes()["levels"])
            for number, op in enumerate(ops)
            if op.get_type_name() == "FakeQuantize"
        }
        self._integers = {
            str(number)
            for number, op in enumerate(ops)
            if op.get_type_name() == "Convert" and op.get_output_element_type(0).is_integral()
        }
        named = [port for op in ops if op.get_type_name() != "Result" for port in op.outputs()]
        names = {name: _value(port) for port in named for name in sorted(port.get_names())}
        self._ids = [op.get_friendly_name() for op in ops if op.get_type_name() not in _NO_NODES]
        nodes = [_node(op) for op in ops if op.get_type_name() not in _NO_NODES]
        inputs = [_value(op.output(0)) for op in self._model.get_parameters()]
        outputs = [_value(op.input_value(0)) for op in self._model.get_results()]
        self.topology = Topology(nodes, inputs, outputs, names)
        self._types = {_value(port): port.get_element_type() for port in named}
        self.topology.reals = {value for value, kind in self._types.items() if kind.is_real()}
        self._find_pairs()

    def expose(self, values: Sequence[str]) -> Run:
        """See `Network.expose`."""
        copied = self._model.clone()
        ops = {op.get_friendly_name(): op for op in copied.get_ordered_ops()}
        ports = [_port(ops, value) for value in (self.topology.outputs[0], *values)]
        return self._run(self._openvino.Model(ports, copied.get_parameters()), self.topology.inputs)

    def cut(self, part: Part, change: Change = NO_CHANGE, other: Network | None = None) -> Run:
        """See `Network.cut`; the input shapes are those of the first values that it is run on."""
        compiled: dict[str, Run] = {}

        def run(values: Mapping[str, Array]) -> list[Array]:
            if "run" not in compiled:
                with refusing(InputError, "openvino cannot cut out a part of the network"):
                    shapes = {name: values[name].shape for name in part.inputs}
                    model = self._part_model(part, shapes, change, other)
                compiled["run"] = self._run(model, part.inputs, change.setting)
            return compiled["run"](values)

        return run

    def constants(self, names: Sequence[str]) -> list[Array]:
        """See `Network.constants`."""
        if not names:
            return []
        copied = self._model.clone()
        ops = {op.get_friendly_name(): op for op in copied.get_ordered_ops()}
        model = self._openvino.Model([_port(ops, name) for name in names], [])
        return self._run(model, ())({})

    def run_onnx(self, content: bytes, values: Mapping[str, Array]) -> Array:
        """What this engine, set as for this network, makes of an ONNX file; raises InputError where it takes it not."""
        try:
            model = self._core.read_model(content, b"")
        except RuntimeError as exc:
            raise InputError(f"openvino cannot read the part: {in_one_line(exc)}") from exc
        return self._run(model, [port.get_any_name() for port in model.inputs])(values)[0]

    def _part_model(
        self, part: Part, shapes: Mapping[str, tuple[int, ...]], change: Change, other: Network | None
    ) -> Any:
        copied = self._model.clone()
        ops = {op.get_friendly_name(): op for op in copied.get_ordered_ops()}
        opset = self._openvino.opset13
        output, parameters = part.output, []
        for source in change.unrounded:
            pair = self.topology.pairs.get(source)
            if pair is not None and pair.rounded not in part.inputs:
                _replace(_port(ops, pair.rounded), _port(ops, source))
                output = source if output == pair.rounded else output
        for name in part.inputs:
            parameter = opset.parameter(shapes[name], self._types[name])
            _replace(_port(ops, name), parameter.output(0))
            parameters.append(parameter)
        for own, theirs in change.swapped if other is not None else ():
            assert other is not None  # noqa: S101 - nothing is swapped without another
            port = _port(ops, own)
            values = other.constants([theirs])[0].reshape(port.get_shape())
            _replace(port, opset.convert(opset.constant(values), port.get_element_type()).output(0))
        return self._openvino.Model([_port(ops, output)], parameters)

    def _run(self, model: Any, inputs: Sequence[str], setting: str = "") -> Run:
        configuration = {**self._configuration, **_CHANGES.get(setting, {})}
        try:
            compiled = self._core.compile_model(model, "CPU", configuration)
        except RuntimeError as exc:
            raise InputError(f"openvino cannot open a part of the network: {in_one_line(exc)}") from exc
        count = len(compiled.outputs)

        def run(values: Mapping[str, Array]) -> list[Array]:
            try:
                results = compiled([self._fed(name, values[name]) for name in inputs])
            except RuntimeError as exc:
                raise InputError(f"openvino cannot run a part of the network: {in_one_line(exc)}") from exc
            return [np.array(results[index], np.float32) for index in range(count)]

        return run

    def _fed(self, name: str, value: Array) -> Any:
        kind = self._types[name].to_dtype() if name in self._types else np.float32
        return np.ascontiguousarray(value, kind)

    def _find_pairs(self) -> None:
        graph = self.topology
        pairs = [
            self._pair(index, node)
            for index, node in enumerate(graph.nodes)
            if node.operator == "FakeQuantize" and node.inputs[0] in graph.reached
        ]
        names = list(dict.fromkeys(name for pair in pairs for name in pair[4:] if isinstance(name, str) and name))
        values = dict(zip(names, self.constants(names), strict=True))
        for pair in pairs:
            graph.add_pair(Pair(pair.source, pair.rounded, *_grids(pair, values)), pair.halves)

    def _pair(self, index: int, node: Node) -> _Found:
        """The FakeQuantize ``node`` with the reverse of its codes, if it gives codes."""
        graph = self.topology
        halves, current, zero, scale = [index], node.outputs[0], "", ""
        readers = graph.readers.get(current, [])
        while readers and not scale:
            reader = readers[0]
            following = graph.nodes[reader]
            begins = len(halves) > 1 or self._ids[reader] in self._integers
            if following.operator not in _REVERSE or not begins:
                break
            constant = next((name for name in following.inputs if name not in graph.reached), "")
            zero = constant if following.operator == "Subtract" else zero
            scale = constant if following.operator == "Multiply" else scale
            halves.append(reader)
            current = following.outputs[0]
            readers = graph.readers.get(current, [])
        levels = self._levels[self._ids[index]]
        source, lowest, highest, low, high = node.inputs[:5]
        return _Found(source, current, tuple(halves), levels, lowest, highest, low, high, zero, scale)


def _grids(pair: _Found, values: Mapping[str, Array]) -> tuple[Grid | None, Grid | None]:
    """What the reverse gives and what the quantization takes."""
    ends = [values[name] for name in (pair.low, pair.high, pair.lowest, pair.highest)]
    zero = values[pair.zero] if pair.zero else np.zeros(1, np.float32)
    scale = values[pair.scale] if pair.scale else np.ones(1, np.float32)
    if max(array.size for array in (*ends, zero, scale)) > 1:
        return None, None
    low, high, lowest, highest, offset, step = (float(array.ravel()[0]) for array in (*ends, zero, scale))
    read = ((low - offset) * step, (high - offset) * step)
    steps = pair.levels - 1
    return Grid((read[1] - read[0]) / steps, *read), Grid((highest - lowest) / steps, lowest, highest)


def _node(op: Any) -> Node:
    inputs = tuple(_value(port.get_source_output()) for port in op.inputs())
    outputs = tuple(_value(port) for port in op.outputs())
    return Node(op.get_type_name(), next(iter(sorted(op.output(0).get_names())), ""), inputs, outputs)


def _value(port: Any) -> str:
    return f"{port.get_node().get_friendly_name()}:{port.get_index()}"


def _port(ops: Mapping[str, Any], value: str) -> Any:
    name, _, index = value.partition(":")
    return ops[name].output(int(index))


def _replace(port: Any, by: Any) -> None:
    for target in port.get_target_inputs():
        target.replace_source_output(by)
