"""Layers with constant weights, and their symmetric INT8 weights with one scale a channel of the output.

For a weight ``w`` of channel ``c``: ``scale_c = max|w| / limit``, ``q = round(w / scale_c)``, with ``limit`` 127, or 63
for 7-bit weights. Two products of an unsigned byte with a 7-bit weight stay below 2·255·63 < 2¹⁵, so
``vpmaddubsw``, which adds pairs in 16 bits on CPUs without VNNI, cannot saturate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.sum_preserving_rounding import round_keeping_sums
from medfm_compress.export.passes.graph import free_name

if TYPE_CHECKING:
    import onnx_ir as ir

LIMIT = 127
REDUCED_LIMIT = 63
FP8_LIMIT = 448.0  # the largest finite E4M3
WEIGHTED: Mapping[str, int] = MappingProxyType({"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1})
_BIAS_LIMIT = 2.0**30  # of a bias in steps of its int32 scale; accumulators add to it


class Layer(NamedTuple):
    """A node with a constant weight (input 1), and the weight's axis of output channels."""

    node: ir.Node
    axis: int

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name or ""

    @property
    def input(self) -> ir.Value:
        """The activation that enters."""
        value = self.node.inputs[0]
        assert value is not None  # noqa: S101 - ONNX's own rule for these operators
        return value

    @property
    def weight(self) -> ir.Value:
        """The constant value of the weight."""
        value = self.node.inputs[1]
        assert value is not None  # noqa: S101 - ONNX's own rule for these operators
        return value

    @property
    def bias(self) -> Bias | None:
        """Where the constant ``[channels]`` is added: in the layer itself, or in the Add that alone reads a MatMul."""
        if self.node.op_type != "MatMul":
            return _bias(self, self.node, 2)
        result = self.node.outputs[0]
        uses = list(result.uses())
        if len(uses) != 1 or uses[0].node.op_type != "Add" or result.is_graph_output():
            return None
        return _bias(self, uses[0].node, 1 - uses[0].idx)


class Bias(NamedTuple):
    """Input ``slot`` of ``node`` is the constant ``values``, float32 ``[channels]``."""

    node: ir.Node
    slot: int
    values: NDArray[np.float32]


class QuantizedWeight(NamedTuple):
    """``values``: int8 in [-127, 127] or float8_e4m3fn, the weight's shape; ``scales``: float32 > 0, one a channel."""

    values: NDArray[Any]
    scales: NDArray[np.float32]


def constant(value: ir.Value | None) -> NDArray[Any] | None:
    """The array of an initializer or of a Constant node's output, else None."""
    import onnx_ir as ir

    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def is_constant(value: ir.Value | None) -> bool:
    """Whether the value is known before the first input."""
    import onnx_ir as ir

    return value is not None and not value.is_graph_input() and ir.convenience.get_const_tensor(value) is not None


def is_probability(value: ir.Value | None) -> bool:
    """Whether a softmax gives the value."""
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "Softmax"


def layers(graph: ir.Graph) -> Iterator[Layer]:
    """Every Conv, ConvTranspose, Gemm and MatMul of an activation with a constant float32 weight, in graph order."""
    for node in graph:
        if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx"):
            continue
        if is_constant(node.inputs[1]) and not is_constant(node.inputs[0]) and _is_plain(node):
            yield Layer(node, _channel_axis(node))


def quantize_weight(
    weight: NDArray[np.float32], axis: int, *, reduced: bool = False, least: NDArray[np.float64] | None = None
) -> QuantizedWeight:
    """Symmetric INT8 with one scale a channel.

    Args:
        weight: any shape.
        axis: of the output channels.
        reduced: 7-bit weights, for CPUs without VNNI.
        least: the smallest scale allowed, one a channel; see `least_scales`.
    """
    limit = REDUCED_LIMIT if reduced else LIMIT
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.abs(weight).max(axis=others).astype(np.float64) / limit
    usable = scales[scales > np.finfo(np.float32).tiny]
    scales = np.where(scales > np.finfo(np.float32).tiny, scales, usable.min() if usable.size else 1.0)
    if least is not None:
        scales = np.maximum(scales, least)
    stored = scales.astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    return QuantizedWeight(_rounded(weight / stored.reshape(shape), axis, limit), stored)


def quantize_weight_fp8(weight: NDArray[np.float32], axis: int) -> QuantizedWeight:
    """FP8 E4M3 with one scale a channel: ``scale_c = max|w| / 448``, to the nearest FP8 number.

    Args:
        weight: any shape.
        axis: of the output channels.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    scales = np.abs(weight).max(axis=others).astype(np.float64) / FP8_LIMIT
    stored = np.where(scales > np.finfo(np.float32).tiny, scales, 1.0).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    numbers = np.clip(weight / stored.reshape(shape), -FP8_LIMIT, FP8_LIMIT)
    return QuantizedWeight(numbers.astype(ml_dtypes.float8_e4m3fn), stored)


def _rounded(weight: NDArray[np.float32], axis: int, limit: int) -> NDArray[np.int8]:
    """To the nearest integer; the kernels of a convolution (outputs first) keep their sums."""
    if weight.ndim > 2 and axis == 0:
        return round_keeping_sums(weight.reshape(*weight.shape[:2], -1), limit).reshape(weight.shape)
    return np.clip(np.rint(weight), -limit, limit).astype(np.int8)


def least_scales(bias: NDArray[np.float32], input_scale: float) -> NDArray[np.float64]:
    """The smallest weight scales with which ``bias / (input_scale · weight_scale)`` still fits int32 with room."""
    return np.abs(bias.astype(np.float64)) / (input_scale * _BIAS_LIMIT)


def quantize_bias(
    bias: NDArray[np.float32], input_scale: float, weight_scales: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Int32 bias in the accumulator's own steps, ``input_scale · weight_scale``, and these steps."""
    scales = (np.float32(input_scale) * weight_scales).astype(np.float32)
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    limits = np.iinfo(np.int32)
    return np.clip(np.rint(bias.astype(np.float64) / scales), limits.min, limits.max).astype(np.int32), scales


def add_initializer(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """A new constant of the graph, of the array's own type; ``name`` is numbered where the graph has it already."""
    import onnx_ir as ir

    name = free_name(name, graph.initializers)
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def take_place(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """Put ``new`` behind ``old``; its one result takes the name and every reader of the old one."""
    import onnx_ir as ir

    before, after = old.outputs[0], new.outputs[0]
    after.shape, after.type = before.shape, before.type
    graph.insert_after(old, new)
    ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    after.name, before.name = before.name, f"{before.name}_replaced"


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """The value of an attribute, or ``default``."""
    value = node.attributes.get(name)
    return default if value is None else value.value


def _bias(layer: Layer, node: ir.Node, slot: int) -> Bias | None:
    values = constant(node.inputs[slot]) if len(node.inputs) > slot else None
    shape = layer.weight.shape
    if values is None or shape is None or values.shape != (shape[layer.axis],):
        return None
    return Bias(node, slot, values)


def _is_plain(node: ir.Node) -> bool:
    """Whether one scale an output channel can be factored out of the product."""
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None  # noqa: S101 - a constant has a shape
    if node.op_type == "ConvTranspose":
        return bool(attribute(node, "group", 1) == 1)
    if node.op_type == "Gemm":
        return not attribute(node, "transA", 0)
    return len(weight.shape) >= 2


def _channel_axis(node: ir.Node) -> int:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    if node.op_type == "Gemm":
        return 0 if attribute(node, "transB", 0) else 1
    weight = node.inputs[1]
    assert weight is not None and weight.shape is not None  # noqa: S101 - a constant has a shape
    return len(weight.shape) - 1
