"""ONNX graphs of one layer, several times side by side, as the export would write it.

    y = mean(L₁(x) + L₂(x) + … + Lₖ(x))

The copies read the same input and differ in their weights, so that no engine takes them for one. What ``k`` copies
take longer than one is the time of ``k - 1`` layers: input, output and the call itself are in both. The mean keeps
the output small, and stands where another layer would, so that the last sum is no output of the graph.

An attention cannot stand alone: its queries, keys and values come from three layers of `PROJECTED` inputs, in which
engines fuse what belongs to the attention. They are timed by themselves (`projections`) and taken off.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.latency.layer_shapes import LayerCall
from medfm_compress.export.onnx_export import INPUT, OPSET, OUTPUT

if TYPE_CHECKING:
    import onnx

PROJECTED = 16
_IR_VERSION = 10  # what ONNX Runtime 1.23 still reads
Attribute = int | tuple[int, ...]
_NONE: Mapping[str, Attribute] = MappingProxyType({})


def layer_graph(call: LayerCall, copies: int) -> bytes:
    """A serialized ONNX model of ``copies`` layers.

    Args:
        call: any kind but ``norm``; its ``split`` and ``times`` do not matter.
        copies: >= 1.

    Its input is float32 `input_shape`, its output the mean over everything but the channels.
    """
    graph = _Graph()
    for copy in range(copies):
        graph.add_copy(call, copy)
    return graph.finished(input_shape(call), tokens=_on_tokens(call))


def empty_graph(shape: tuple[int, ...]) -> bytes:
    """A serialized ONNX model that only reads an image ``[1, channels, height, width]``: its mean by channel."""
    graph = _Graph()
    graph.sums.append(INPUT)
    return graph.finished(shape, tokens=False)


def input_shape(call: LayerCall) -> tuple[int, ...]:
    """Of the graph: an image ``[n, channels, height, width]`` or tokens ``[n, tokens, channels]``."""
    width = PROJECTED if call.kind == "attention" else call.outputs if call.kind == "depthwise" else call.inputs
    if _on_tokens(call):
        return (call.batch, call.rows, width)
    return (call.batch, width, *call.size)


def projections(call: LayerCall) -> tuple[LayerCall, LayerCall, LayerCall]:
    """The layers that give an attention its queries, keys and values in its graph."""
    key, value = (_projection(call, call.outputs * width) for width in (call.key_dim, call.head_dim))
    return key, key, value


def _projection(call: LayerCall, width: int) -> LayerCall:
    if call.image:
        return LayerCall(kind="conv", inputs=PROJECTED, outputs=width, batch=call.batch, size=call.size)
    return LayerCall(kind="linear", inputs=PROJECTED, outputs=width, rows=call.batch * call.rows)


def _on_tokens(call: LayerCall) -> bool:
    return call.kind == "linear" or (call.kind == "attention" and not call.image)


def _windows(call: LayerCall) -> dict[str, Attribute]:
    return {
        "kernel_shape": call.kernel,
        "strides": call.stride,
        "pads": call.padding,
        "dilations": call.dilation,
    }


class _Graph:
    """Nodes and weights, one after the other; random numbers are the same every time."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._random = np.random.default_rng(0)
        self.sums: list[str] = []

    def add_copy(self, call: LayerCall, number: int) -> None:
        name = f"layer{number}"
        if call.kind == "attention":
            result = self._attention(call, name)
        elif call.kind == "linear":
            result = self._linear(INPUT, call.inputs, call.outputs, name)
        elif call.kind == "transposed":
            result = self._transposed(INPUT, call, name)
        else:
            result = self._conv(INPUT, call, name)
        self.sums.append(self._node("Add", [self.sums[-1], result], f"{name}_sum") if self.sums else result)

    def finished(self, shape: tuple[int, ...], *, tokens: bool) -> bytes:
        from onnx import TensorProto, helper

        axes = self._constant(np.array([0, 1] if tokens else [0, 2, 3], np.int64), "axes")
        self._nodes.append(helper.make_node("ReduceMean", [self.sums[-1], axes], [OUTPUT], name="mean", keepdims=0))
        channels = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None])
        image = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, "layers", [image], [channels], self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
        return bytes(model.SerializeToString(deterministic=True))

    def _attention(self, call: LayerCall, name: str) -> str:
        """softmax(Q Kᵀ + M) V of each head; the scale lies in the queries' weights, as the export leaves it."""
        layers = projections(call)
        query = self._heads(call, layers[0], f"{name}_query")
        key = self._heads(call, layers[1], f"{name}_key", turned=True)
        value = self._heads(call, layers[2], f"{name}_value")
        scores = self._node("MatMul", [query, key], f"{name}_scores")
        if call.biased:
            table = self._weight((1, call.outputs, call.rows, call.rows), 1.0, f"{name}_table")
            scores = self._node("Add", [scores, table], f"{name}_biased")
        shares = self._node("Softmax", [scores], f"{name}_softmax", {"axis": -1})
        mixed = self._node("MatMul", [shares, value], f"{name}_mixed")
        width = call.outputs * call.head_dim
        if call.image:
            return self._reshape(self._transpose(mixed, (0, 1, 3, 2)), (call.batch, width, *call.size))
        return self._reshape(self._transpose(mixed, (0, 2, 1, 3)), (call.batch, call.rows, width))

    def _heads(self, call: LayerCall, layer: LayerCall, name: str, *, turned: bool = False) -> str:
        """``[n, heads, tokens, width]``, or ``turned`` ``[n, heads, width, tokens]``, of a layer of their own."""
        width = layer.outputs // call.outputs
        if call.image:
            apart = self._reshape(self._conv(INPUT, layer, name), (call.batch, call.outputs, width, call.rows))
            return apart if turned else self._transpose(apart, (0, 1, 3, 2))
        result = self._linear(INPUT, layer.inputs, layer.outputs, name)
        apart = self._reshape(result, (call.batch, call.rows, call.outputs, width))
        return self._transpose(apart, (0, 2, 3, 1) if turned else (0, 2, 1, 3))

    def _linear(self, value: str, inputs: int, outputs: int, name: str) -> str:
        weight = self._weight((inputs, outputs), inputs**-0.5, f"{name}_weight")
        bias = self._weight((outputs,), 0.1, f"{name}_bias")
        return self._node("Add", [self._node("MatMul", [value, weight], name), bias], f"{name}_biased")

    def _conv(self, value: str, call: LayerCall, name: str) -> str:
        groups = call.outputs if call.kind == "depthwise" else call.groups
        inputs = 1 if call.kind == "depthwise" else call.inputs // groups
        shape = (call.outputs, inputs, *call.kernel)
        weight = self._weight(shape, float(np.prod(shape[1:])) ** -0.5, f"{name}_weight")
        bias = self._weight((call.outputs,), 0.1, f"{name}_bias")
        return self._node("Conv", [value, weight, bias], name, _windows(call) | {"group": groups})

    def _transposed(self, value: str, call: LayerCall, name: str) -> str:
        shape = (call.inputs, call.outputs // call.groups, *call.kernel)
        weight = self._weight(shape, float(call.inputs) ** -0.5, f"{name}_weight")
        bias = self._weight((call.outputs,), 0.1, f"{name}_bias")
        about = _windows(call) | {"group": call.groups, "output_padding": call.output_padding}
        return self._node("ConvTranspose", [value, weight, bias], name, about)

    def _reshape(self, value: str, shape: tuple[int, ...]) -> str:
        return self._node("Reshape", [value, self._constant(np.array(shape, np.int64), f"{value}_shape")], f"{value}_r")

    def _transpose(self, value: str, order: tuple[int, ...]) -> str:
        return self._node("Transpose", [value], f"{value}_t", {"perm": order})

    def _node(self, operator: str, inputs: list[str], name: str, about: Mapping[str, Attribute] = _NONE) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(operator, inputs, [name], name=f"{name}_node", **about))
        return name

    def _weight(self, shape: tuple[int, ...], scale: float, name: str) -> str:
        numbers = self._random.random(shape, np.float32) - np.float32(0.5)
        return self._constant(numbers * np.float32(scale * 12**0.5), name)

    def _constant(self, numbers: NDArray[Any], name: str) -> str:
        from onnx import numpy_helper

        self._weights.append(numpy_helper.from_array(numbers, name))
        return name
