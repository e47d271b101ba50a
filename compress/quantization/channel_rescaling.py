"""Where channels of an activation can be rescaled without changing what the network computes.

An activation x between a source and the layers that read it may be divided by s > 0, channel by channel:

    source: γ/s, β/s (normalisation) or W/s, b/s (a layer, by output channel)      readers: W·s (by input channel)

Between them may stand what commutes with positive factors: ReLU, pooling, reshapes that keep the channels, products
with constants, and sums with constants, which are divided too. Anything else that reads x (a residual sum, GELU, SiLU)
forbids it. Used by SmoothQuant (Xiao et al. 2023) and by the outlier stress, its opposite.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.weights import Layer, attribute, constant, is_constant, layers
from medfm_compress.export.passes.graph import add_constant, graph_of, remove_unused, static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

_NORMS = {"LayerNormalization": -1, "BatchNormalization": 1, "InstanceNormalization": 1}
_LINEAR = {"Conv": 1, "Gemm": -1, "MatMul": -1}
_COMMUTING = frozenset({"Relu", "LeakyRelu", "Identity"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})
_RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})


class Divided(NamedTuple):
    """A constant to divide by s along ``axis``: input ``slot`` of ``node``."""

    node: ir.Node
    slot: int
    axis: int


class Group(NamedTuple):
    """What changes together.

    Attributes:
        source: the node whose result is rescaled.
        axis: of its channels, 1 or -1.
        channels: how many.
        divided: constants that take 1/s.
        layers: whose weights take s.
        values: every activation that is divided.
    """

    source: ir.Node
    axis: int
    channels: int
    divided: tuple[Divided, ...]
    layers: tuple[Layer, ...]
    values: tuple[ir.Value, ...]


def groups(graph: ir.Graph) -> Iterator[Group]:
    """Every group of ``graph``, in its order; no layer reads from two of them."""
    known = {layer.node: layer for layer in layers(graph)}
    for node in graph:
        group = _group(node, known)
        if group is not None:
            yield group


def rescale(group: Group, factors: NDArray[np.float64]) -> None:
    """Divide the activations of ``group`` by ``factors`` ``[channels]``, all positive, in place."""
    for node, slot, axis in group.divided:
        value = _input(node, slot)
        array = _constant(value)
        shape = [-1] + [1] * (-axis - 1 if axis < 0 else array.ndim - axis - 1)
        _replace(node, slot, array / factors.reshape(shape))
    for layer in group.layers:
        weight = _constant(layer.weight)
        _replace(layer.node, 1, weight * _spread(layer, weight, factors))


def input_maxima(layer: Layer) -> NDArray[np.float64]:
    """max|W| of each input channel, ``[channels]``."""
    weight = np.abs(_constant(layer.weight).astype(np.float64))
    if layer.node.op_type != "Conv":
        return np.asarray(weight.max(axis=layer.axis))
    count = int(attribute(layer.node, "group", 1))
    flat = weight.reshape(count, weight.shape[0] // count, weight.shape[1], -1)
    return np.asarray(flat.max(axis=(1, 3)).reshape(-1))


def finish(model: ir.Model) -> None:
    """Drop the constants that were replaced."""
    remove_unused(model)


def _group(source: ir.Node, known: Mapping[ir.Node, Layer]) -> Group | None:
    start = _source(source, known)
    if start is None:
        return None
    axis, channels, divided = start
    walk = _Walk(axis, channels, known)
    if not walk.follow(source.outputs[0]) or not walk.layers:
        return None
    return Group(source, axis, channels, (*divided, *walk.divided), tuple(walk.layers), tuple(walk.values))


def _source(node: ir.Node, known: Mapping[ir.Node, Layer]) -> tuple[int, int, tuple[Divided, ...]] | None:
    """The channels' axis in the result, their number, and the constants that scale the result."""
    if node.op_type in _NORMS and node.domain == "":
        axis = _NORMS[node.op_type]
        scale = constant(node.inputs[1])
        if scale is None or scale.ndim != 1 or (axis == -1 and not _normalises_last(node)):
            return None
        return axis, scale.size, tuple(Divided(node, slot, 0) for slot in (1, 2) if _has_input(node, slot))
    layer = known.get(node)
    if layer is None or node.op_type not in _LINEAR or not input_channels(layer):
        return None
    divided = (Divided(node, 1, layer.axis), *((Divided(node, 2, -1),) if _has_input(node, 2) else ()))
    return _LINEAR[node.op_type], (static_shape(layer.weight) or ())[layer.axis], divided


class _Walk:
    """Forward from the source to the layers; `follow` is False where something else reads the activation."""

    def __init__(self, axis: int, channels: int, known: Mapping[ir.Node, Layer]) -> None:
        self._axis, self._channels, self._known = axis, channels, known
        self.layers: list[Layer] = []
        self.divided: list[Divided] = []
        self.values: list[ir.Value] = []

    def follow(self, value: ir.Value) -> bool:
        if value.is_graph_output() or not value.uses():
            return False
        self.values.append(value)
        return all(self._reader(node, slot) for node, slot in value.uses())

    def _reader(self, node: ir.Node, slot: int) -> bool:
        if node.domain != "":
            return False
        layer = self._known.get(node)
        if layer is not None:
            self.layers.append(layer)
            return slot == 0 and _LINEAR.get(node.op_type) == self._axis and input_channels(layer) == self._channels
        if node.op_type in ("Add", "Mul") and len(node.inputs) == 2 and is_constant(node.inputs[1 - slot]):
            return self._with_constant(node, 1 - slot)
        return self._passes(node) and self.follow(node.outputs[0])

    def _passes(self, node: ir.Node) -> bool:
        if node.op_type in _COMMUTING:
            return True
        if node.op_type in _POOLS:
            return self._axis == 1 and len(node.outputs) == 1
        shapes = static_shape(node.inputs[0]), static_shape(node.outputs[0])
        return node.op_type in _RESHAPES and self._axis == -1 and all(s and s[-1] == self._channels for s in shapes)

    def _with_constant(self, node: ir.Node, slot: int) -> bool:
        rank = max(len(value.shape) for value in node.inputs if value is not None and value.shape is not None)
        axis = -1 if self._axis == -1 else 1 - rank
        array = _constant(_input(node, slot))
        if array.ndim > rank or node.outputs[0].shape is None or len(node.outputs[0].shape) != rank:
            return False
        if node.op_type == "Add":
            self.divided.append(Divided(node, slot, axis))
        return self.follow(node.outputs[0])


def input_channels(layer: Layer) -> int:
    """How many input channels the weight has; 0 where it is no plain matrix or convolution."""
    shape = static_shape(layer.weight) or ()
    if layer.node.op_type == "Conv":
        return int(shape[1] * attribute(layer.node, "group", 1))
    return int(shape[1 - layer.axis]) if len(shape) == 2 else 0


def _spread(layer: Layer, weight: NDArray[np.float32], factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """``factors`` of the input channels in the shape of the weight."""
    if layer.node.op_type != "Conv":
        return factors.reshape((-1, 1) if layer.axis == weight.ndim - 1 else (1, -1))
    count = int(attribute(layer.node, "group", 1))
    rows = np.repeat(factors.reshape(count, weight.shape[1]), weight.shape[0] // count, axis=0)
    return rows.reshape(*rows.shape, *[1] * (weight.ndim - 2))


def _replace(node: ir.Node, slot: int, array: NDArray[np.float64]) -> None:
    """A constant of its own for this node: others may share the old one."""
    name = f"{_input(node, slot).name}_rescaled"
    node.replace_input_with(slot, add_constant(graph_of(node), name, array.astype(np.float32)))


def _normalises_last(node: ir.Node) -> bool:
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return attribute(node, "axis", -1) in (-1, *(() if shape is None else (len(shape) - 1,)))


def _has_input(node: ir.Node, slot: int) -> bool:
    return len(node.inputs) > slot and node.inputs[slot] is not None


def _input(node: ir.Node, slot: int) -> ir.Value:
    value = node.inputs[slot]
    assert value is not None  # noqa: S101 - the caller looked
    return value


def _constant(value: ir.Value) -> NDArray[np.float32]:
    array = constant(value)
    assert array is not None  # noqa: S101 - the caller looked
    return array
