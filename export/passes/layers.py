"""A weighted layer (Conv, Gemm, MatMul by a constant) as what a pass may do to it: scale its outputs or its inputs.

    y = W x + b,   s * y + t = (s W) x + (s b + t),   W (s x + t) + b = (W s) x + (W t + b)

New constants get new names, since initializers may be shared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import add_constant, attribute, constant, graph_of, maker, only_user

if TYPE_CHECKING:
    import onnx_ir as ir

Vector = NDArray[Any]  # one number a channel


class Layer(NamedTuple):
    """A weighted node and the constants it reads.

    Attributes:
        node: Conv, Gemm or MatMul.
        weight: as stored.
        out_axis: the weight's axis of output channels.
        bias: of the node itself or of the Add behind a MatMul ``[channels]``; None where there is none.
        add: the Add behind a MatMul.
    """

    node: ir.Node
    weight: NDArray[Any]
    out_axis: int
    bias: Vector | None
    add: ir.Node | None = None

    @property
    def output(self) -> ir.Value:
        """What the layer returns, bias included."""
        return (self.add or self.node).outputs[0]

    @property
    def channels(self) -> int:
        """How many outputs it has."""
        return int(self.weight.shape[self.out_axis])

    @property
    def in_channels(self) -> int:
        """How many inputs it has."""
        if self.node.op_type == "Conv":
            return int(self.weight.shape[1] * attribute(self.node, "group", 1))
        return int(self.weight.shape[1 - self.out_axis])

    @property
    def axis(self) -> int:
        """The axis of its input and output along which channels lie."""
        return 1 if self.node.op_type == "Conv" else -1


def layer_of(node: ir.Node | None) -> Layer | None:
    """The layer that ``node`` is, or None; an Add of constants behind a MatMul belongs to it."""
    if node is None or node.domain != "" or node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    weight = constant(node.inputs[1])
    if weight is None or weight.dtype != np.float32:
        return None
    if node.op_type == "MatMul":
        return _matmul(node, weight) if weight.ndim == 2 else None
    bias_input = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Conv":
        bias = constant(bias_input)
        return Layer(node, weight, 0, bias) if bias_input is None or bias is not None else None
    plain = not attribute(node, "transA", 0) and attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    out_axis = 0 if attribute(node, "transB", 0) else 1
    bias = channel_vector(bias_input, 2, 1, int(weight.shape[out_axis]))
    return Layer(node, weight, out_axis, bias) if plain and (bias_input is None or bias is not None) else None


def layer_behind(value: ir.Value) -> Layer | None:
    """The layer that returns ``value``, its bias included, or None."""
    node = maker(value, "Conv", "Gemm", "MatMul", "Add")
    if node is None:
        return None
    candidates = [maker(operand, "MatMul") for operand in node.inputs] if node.op_type == "Add" else [node]
    matches = (layer_of(candidate) for candidate in candidates)
    return next((layer for layer in matches if layer is not None and layer.output is value), None)


def _matmul(node: ir.Node, weight: NDArray[Any]) -> Layer:
    add = only_user(node.outputs[0])
    shape = node.outputs[0].shape
    if add is not None and shape is not None and add.domain == "" and add.op_type == "Add":
        other = add.inputs[1] if add.inputs[0] is node.outputs[0] else add.inputs[0]
        bias = channel_vector(other, len(shape), -1, int(weight.shape[1]))
        if bias is not None:
            return Layer(node, weight, 1, bias, add)
    return Layer(node, weight, 1, None)


def channel_vector(value: ir.Value | None, rank: int, axis: int, channels: int) -> Vector | None:
    """The constant ``value`` as one number a channel ``[channels]``, as it broadcasts along ``axis`` of ``rank`` axes.

    None where it is no float32 constant, or varies along another axis.
    """
    array = constant(value)
    if array is None or array.ndim > rank or array.dtype != np.float32:
        return None
    if array.size == 1:
        return np.full(channels, array.item(), dtype=array.dtype)
    along = ((1,) * (rank - array.ndim) + array.shape)[axis]
    return array.reshape(-1) if array.size == along == channels else None


def scale_outputs(layer: Layer, scale: Vector, shift: Vector | None = None) -> None:
    """Make the layer return ``scale`` * y + ``shift``, ``[channels]`` each."""
    shape = [1] * layer.weight.ndim
    shape[layer.out_axis] = -1
    bias = None if layer.bias is None else layer.bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    if not np.all(scale == 1):
        _set_weight(layer, layer.weight * scale.reshape(shape))
    if bias is not None:
        _set_bias(layer, bias)


def scale_inputs(layer: Layer, scale: Vector, shift: Vector | None = None) -> None:
    """Make the layer see ``scale`` * x + ``shift``, ``[in_channels]`` each; a shift is exact without padding only."""
    if shift is not None:
        moved = layer.weight.astype(np.float64) * _by_input(layer, shift)
        moved = moved.sum(axis=tuple(axis for axis in range(moved.ndim) if axis != layer.out_axis))
        _set_bias(layer, moved if layer.bias is None else layer.bias + moved)
    _set_weight(layer, layer.weight * _by_input(layer, scale))


def _by_input(layer: Layer, vector: Vector) -> NDArray[Any]:
    """One number an input channel, spread so that it meets the weights that read this channel."""
    if layer.node.op_type != "Conv":
        return vector.reshape((-1, 1) if layer.out_axis == 1 else (1, -1))
    outputs, inputs = layer.weight.shape[:2]
    group = np.arange(outputs) // (outputs // attribute(layer.node, "group", 1))
    spread: NDArray[Any] = vector[group[:, None] * inputs + np.arange(inputs)]
    return spread.reshape(outputs, inputs, *(1,) * (layer.weight.ndim - 2))


def _set_weight(layer: Layer, weight: NDArray[Any]) -> None:
    old = layer.node.inputs[1]
    name = f"{old.name if old is not None else layer.node.name}_folded"
    layer.node.replace_input_with(1, add_constant(graph_of(layer.node), name, weight.astype(np.float32)))


def _set_bias(layer: Layer, bias: Vector) -> None:
    node = layer.node
    value = add_constant(graph_of(node), f"{node.name}_bias_folded", bias.astype(np.float32))
    if layer.add is not None:
        layer.add.replace_input_with(1 if layer.add.inputs[0] is node.outputs[0] else 0, value)
    elif node.op_type == "MatMul":
        _add_bias(node, value)
    else:
        node.resize_inputs(3)
        node.replace_input_with(2, value)


def _add_bias(matmul: ir.Node, bias: ir.Value) -> None:
    """Put an Add behind a MatMul; what it returns is called as the MatMul's output was."""
    import onnx_ir as ir

    product = matmul.outputs[0]
    add = ir.node("Add", [bias, bias], name=f"{matmul.name}_bias")
    total = add.outputs[0]
    product.replace_all_uses_with(total, replace_graph_outputs=True)
    add.replace_input_with(0, product)
    graph_of(matmul).insert_after(matmul, add)
    total.name, total.shape, total.type = product.name, product.shape, product.type
    product.name = f"{product.name}_unbiased"
