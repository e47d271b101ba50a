"""Channels that residual sums tie together, as groups that can be rescaled without changing what the network computes.

All that is added up along a residual stream must be divided by the same s, channel by channel:

    every convolution that writes to the stream: W/s, b/s        every layer that reads it: W·s

which is cross-layer equalization (Nagel et al. 2019, https://arxiv.org/abs/1906.04721) with a sum in the middle. ReLU,
pooling and further sums may stand between, since they commute with positive factors. SiLU, HardSwish and Clip do not; a
stream of linear bottlenecks (MobileNet, EfficientNet) has none of them, for they stand inside the blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from medfm_compress.compress.quantization.channel_rescaling import Divided, Group, input_channels
from medfm_compress.compress.quantization.weights import Layer, is_constant, layers
from medfm_compress.export.passes.graph import static_shape

if TYPE_CHECKING:
    import onnx_ir as ir

_COMMUTING = frozenset({"Relu", "LeakyRelu", "Identity"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})
_RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "ReduceMean"})


def residual_groups(graph: ir.Graph) -> Iterator[Group]:
    """Every stream of ``graph`` in its order; no value is in two of them."""
    known = {layer.node: layer for layer in layers(graph)}
    seen: set[ir.Value] = set()
    for node in graph:
        value = node.outputs[0]
        shape = static_shape(value)
        if not _is_sum(node) or value in seen or shape is None or len(shape) != 4:
            continue
        stream = _Stream(shape[1], known)
        tied = stream.take(value)
        seen |= set(stream.values)
        if tied and stream.sources and stream.layers:
            yield Group(
                stream.sources[0], 1, shape[1], tuple(stream.divided), tuple(stream.layers), tuple(stream.values)
            )


class _Stream:
    """What is tied to a value; `take` is False where something forbids it."""

    def __init__(self, channels: int, known: Mapping[ir.Node, Layer]) -> None:
        self._channels, self._known = channels, known
        self.sources: list[ir.Node] = []
        self.layers: list[Layer] = []
        self.divided: list[Divided] = []
        self.values: dict[ir.Value, None] = {}

    def take(self, first: ir.Value) -> bool:
        waiting = [first]
        tied = True
        while waiting:
            value = waiting.pop()
            if value in self.values:
                continue
            self.values[value] = None
            further = [self._made(value), *(self._read(value, node, slot) for node, slot in value.uses())]
            tied &= not value.is_graph_output() and all(values is not None for values in further)
            waiting += [other for values in further for other in values or ()]
        return tied

    def _made(self, value: ir.Value) -> list[ir.Value] | None:
        """What the value is made of and shares its channels; None where it may not be divided."""
        node = value.producer()
        if node is None or node.domain != "":
            return None
        if node in self._known or node.op_type == "BatchNormalization":
            return [] if self._writes(node) else None
        return self._across(node)

    def _writes(self, node: ir.Node) -> bool:
        layer = self._known.get(node)
        self.sources.append(node)
        if layer is None:
            self.divided += [Divided(node, 1, 0), Divided(node, 2, 0)]
            return all(is_constant(node.inputs[slot]) for slot in (1, 2))
        if node.op_type != "Conv" or (static_shape(layer.weight) or (0,))[0] != self._channels:
            return False
        self.divided.append(Divided(node, 1, 0))
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            self.divided.append(Divided(node, 2, -1))
            return is_constant(node.inputs[2])
        return True

    def _read(self, value: ir.Value, node: ir.Node, slot: int) -> list[ir.Value] | None:
        """What the reader makes of the value and shares its channels; None where it forbids to divide."""
        if node.domain != "":
            return None
        layer = self._known.get(node)
        if layer is None:
            return self._across(node)
        self.layers.append(layer)
        return [] if slot == 0 and self._channels == input_channels(layer) else None

    def _across(self, node: ir.Node) -> list[ir.Value] | None:
        """The values on both sides of a node that commutes with factors; all of them have the channels."""
        values = [value for value in (*node.inputs, *node.outputs) if value is not None and not is_constant(value)]
        if not all(self._has_channels(value) for value in values):
            return None
        if node.op_type in _COMMUTING or _is_sum(node):
            return values
        if node.op_type in _POOLS and len(node.outputs) == 1:
            return values
        pooled = (static_shape(values[-1]) or ())[2:]
        if node.op_type in _RESHAPES and all(size == 1 for size in pooled):
            return values
        return None

    def _has_channels(self, value: ir.Value) -> bool:
        shape = static_shape(value) or ()
        return len(shape) in (2, 4) and shape[1] == self._channels


def _is_sum(node: ir.Node) -> bool:
    """Whether it adds two activations of one shape."""
    shapes = [static_shape(value) for value in node.inputs]
    return (
        node.op_type == "Add"
        and node.domain == ""
        and len(shapes) == 2
        and shapes[0] == shapes[1]
        and not any(map(is_constant, node.inputs))
    )

