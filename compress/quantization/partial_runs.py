"""Run a graph piece by piece on a few cases, so that a layer can be changed before what comes behind it is run.

The values that later nodes still read are kept for every case, and dropped after their last reader: memory holds the
widest cut through the graph times the cases. Optimizations are off, so Q/DQ pairs compute what they say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.weights import is_constant
from medfm_compress.runtime.sessions.onnxruntime import import_onnxruntime

if TYPE_CHECKING:
    import onnx_ir as ir

_FATAL = 4


class PartialRuns:
    """A graph, how far it has been run, and the values at that cut."""

    def __init__(self, model: ir.Model, inputs: NDArray[np.float32], threads: int = 1) -> None:
        """Nothing has been run yet.

        Args:
            model: one input, whose first dimension is 1 or free; no operator with a subgraph.
            inputs: cases ``[n, C, H, W]``.
            threads: of ONNX Runtime.
        """
        self._model, self._threads = model, threads
        self._nodes = list(model.graph)
        self._next, self._cases = 0, len(inputs)
        self._values = {str(model.graph.inputs[0].name): [inputs[i : i + 1] for i in range(len(inputs))]}
        self._readers = Counter(name for node in self._nodes for name in _reads(node))
        self._readers.update(str(value.name) for value in model.graph.outputs)

    def run_until(self, name: str) -> None:
        """Run all nodes before the one with this name."""
        end = self._next
        while self._nodes[end].name != name:
            end += 1
        self._run(self._nodes[self._next : end])
        self._next = end

    def try_next(self) -> list[NDArray[np.float32]]:
        """The first result of the next node, of every case, without going on."""
        node = self._nodes[self._next]
        return self._results([node], [str(node.outputs[0].name)])[str(node.outputs[0].name)]

    def set_next(self, results: list[NDArray[np.float32]]) -> None:
        """Go on behind the next node, which has one result, with ``results`` in place of its own."""
        node = self._nodes[self._next]
        self._values[str(node.outputs[0].name)] = results
        self._drop(_reads(node))
        self._next += 1

    def value(self, name: str) -> list[NDArray[np.float32]]:
        """A value at the cut, of every case."""
        return self._values[name]

    def _run(self, nodes: Sequence[ir.Node]) -> None:
        if not nodes:
            return
        read = Counter(name for node in nodes for name in _reads(node))
        made = [str(output.name) for node in nodes for output in node.outputs if output.name]
        wanted = [name for name in made if self._readers[name] > read[name]]
        if wanted:
            self._values |= self._results(nodes, wanted)
        self._drop(read.elements())

    def _results(self, nodes: Sequence[ir.Node], wanted: Sequence[str]) -> dict[str, list[Any]]:
        made = {str(output.name) for node in nodes for output in node.outputs}
        feeds = list(dict.fromkeys(name for node in nodes for name in _reads(node) if name not in made))
        session = _session(self._model, nodes, {name: self._values[name][0] for name in feeds}, wanted, self._threads)
        results: dict[str, list[Any]] = {name: [] for name in wanted}
        for i in range(self._cases):
            outputs = session.run(wanted, {name: self._values[name][i] for name in feeds})
            for name, output in zip(wanted, outputs, strict=True):
                results[name].append(output)
        return results

    def _drop(self, names: Any) -> None:
        for name in names:
            self._readers[name] -= 1
            if self._readers[name] <= 0:
                self._values.pop(name, None)


def _reads(node: ir.Node) -> list[str]:
    """Names of the activations that the node reads, as often as it does."""
    return [str(value.name) for value in node.inputs if value is not None and not is_constant(value)]


def _session(
    model: ir.Model, nodes: Sequence[ir.Node], feeds: dict[str, NDArray[Any]], wanted: Sequence[str], threads: int
) -> Any:
    import onnx
    import onnx_ir as ir

    constants = {
        str(value.name): value.const_value
        for node in nodes
        for value in node.inputs
        if value is not None and value.is_initializer() and value.const_value is not None
    }
    inside = {str(output.name) for node in nodes for output in node.outputs}
    holders = [
        value.producer()
        for node in nodes
        for value in node.inputs
        if value is not None and is_constant(value) and not value.is_initializer() and value.name not in inside
    ]
    before = list(dict.fromkeys(node for node in holders if node is not None))
    graph = onnx.helper.make_graph(
        [ir.serde.serialize_node(node) for node in [*before, *nodes]],
        "piece",
        [
            onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in wanted],
    )
    for name, tensor in constants.items():
        proto = ir.serde.serialize_tensor(tensor)
        proto.name = name
        graph.initializer.append(proto)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    piece = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=min(model.ir_version, onnx.IR_VERSION))
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _FATAL
    return onnxruntime.InferenceSession(piece.SerializeToString(), options, providers=["CPUExecutionProvider"])
