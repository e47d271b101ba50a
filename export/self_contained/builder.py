"""`GraphBuilder`: nodes of a graph, written one after another; a value is known by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

Value = str
"""Name of a value in the graph."""

PREFIX = "medfm/"
"""Begins every name that is made here, so that none is a network's own."""


class GraphBuilder:
    """Collects nodes and constants of operators that exist since opset 13."""

    def __init__(self) -> None:
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> Value:
        """An input of the graph; a dimension that is a name may have any size."""
        self._inputs.append(_value_info(name, dtype, shape))
        return name

    def output(self, value: Value, name: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Give ``value`` out as ``name``."""
        self._add("Identity", (value,), name, PREFIX + name, {})
        self._outputs.append(_value_info(name, dtype, shape))

    def constant(self, value: Any, dtype: Any) -> Value:
        """A constant of numpy type ``dtype``."""
        from onnx import numpy_helper

        name = f"{PREFIX}constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def apply(self, operator: str, *inputs: Value, name: str = "", **attributes: Any) -> Value:
        """The first output of an operator; "" is an input left out. ``name`` shows in engines' errors."""
        output = f"{PREFIX}{operator}_{len(self._nodes)}"
        self._add(operator, inputs, output, name or output, attributes)
        return output

    def cast(self, value: Value, dtype: Any) -> Value:
        """``value`` as numpy type ``dtype``; towards zero where it becomes an integer."""
        return self.apply("Cast", value, to=_onnx_type(dtype))

    def shape(self, value: Value, start: int, end: int) -> Value:
        """Dimensions ``start`` to ``end`` of ``value``, int64 ``[end - start]``."""
        first, last, axes = (self.constant([number], np.int64) for number in (start, end, 0))
        return self.apply("Slice", self.apply("Shape", value), first, last, axes)

    def refuse(self, condition: Value, reason: str) -> Value:
        """Int64 zero ``[1]``, unless any of the bools ``condition`` is true: then the run fails, and names ``reason``.

        ONNX has no operator that refuses. A reshape of one value into more fails in every engine, and the error names
        the node.
        """
        count = self.apply("ReduceSum", self.cast(condition, np.int64), keepdims=0)
        sizes = self.apply(
            "Reshape", self.apply("Add", count, self.constant(1, np.int64)), self.constant([1], np.int64)
        )
        return self.apply("Reshape", self.constant([0], np.int64), sizes, name=f"refused: {reason}")

    def graph(self, name: str) -> GraphProto:
        """The graph so far."""
        from onnx import helper

        return helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._constants)

    def embed(self, graph: GraphProto, image: Value) -> Value:
        """Take over ``graph``, of one input and one output and with names of its own; its output for ``image``."""
        self._add("Identity", (image,), graph.input[0].name, f"{PREFIX}{graph.input[0].name}", {})
        self._nodes.extend(graph.node)
        self._constants.extend(graph.initializer)
        return str(graph.output[0].name)

    def _add(
        self, operator: str, inputs: Sequence[Value], output: Value, name: str, attributes: dict[str, Any]
    ) -> None:
        from onnx import helper

        self._nodes.append(helper.make_node(operator, list(inputs), [output], name, **attributes))


def _value_info(name: str, dtype: Any, shape: Sequence[int | str]) -> ValueInfoProto:
    from onnx import helper

    return helper.make_tensor_value_info(name, _onnx_type(dtype), list(shape))


def _onnx_type(dtype: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def as_array(values: Sequence[Any]) -> NDArray[np.float32]:
    """One value a channel, ``[channels, 1, 1]`` float32."""
    return np.asarray(values, np.float32)[:, None, None]
