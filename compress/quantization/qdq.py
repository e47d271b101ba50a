"""The one writer of Q/DQ: where to quantize comes as a `Placement`, with which range as a mapping.

An activation ``x`` in ``[low, high]``, which holds 0, becomes ``q = round(x / scale) + zero``:

    unsigned  scale = (high - low) / 255,         zero = round(-low / scale)   (U8)
    signed    scale = max(-low, high) / 127,      zero = 0                     (S8, symmetric)
    fp8       scale = max(-low, high) / 448,      zero = 0                     (FP8 E4M3)

so 0, which padding inserts, is exact. Weights become int8 (or FP8) initializers behind a DequantizeLinear (`weights`),
biases int32 ones where the backend adds them to its accumulators. Equal inputs give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.compress.quantization.weights import (
    FP8_LIMIT,
    Layer,
    add_initializer,
    constant,
    layers,
    least_scales,
    quantize_bias,
    quantize_weight,
    quantize_weight_fp8,
)
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

SAME_AS = "same_as"  # metadata of a value that holds the numbers of another one, by that one's name
LEAST_OPSET = 13  # the first with one scale a channel
LEAST_OPSET_FP8 = 19
BALANCED = 4 / 3  # times a step, at most, that symmetric levels have to be wider
_LEAST_SCALE = 1e-8  # below it, scales of products leave float32's normal range

Symmetric = Literal["none", "balanced", "all"]
"""Activations that are S8 symmetric beside those that a placement names: none; those of a balanced range, whose steps
grow by a third at most; all that would have a zero point other than 0."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where Q/DQ pairs go.

    Attributes:
        activations: names of values; a pair follows each and every consumer reads its result.
        layers: names of nodes whose constant weight becomes int8.
        floats: names of nodes that go on reading the values before the pairs.
        reads: (value, node): this one node goes on reading the value before its pair.
        ties: (value, other): the value takes the other's range, as operators that only move numbers need it.
        signed: S8 symmetric activations instead of U8.
        symmetric: names of values that are S8 symmetric, whatever the others are.
        others: which of the others are S8 symmetric, by their range; see `Symmetric`.
        reduced: 7-bit weights, for CPUs without VNNI.
        biases: biases of the layers become int32, in steps of input scale times weight scale.
        fp8: FP8 E4M3 in place of integers, for activations and weights.
    """

    activations: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    floats: frozenset[str] = frozenset()
    reads: frozenset[tuple[str, str]] = frozenset()
    ties: tuple[tuple[str, str], ...] = ()
    signed: bool = False
    symmetric: frozenset[str] = frozenset()
    others: Symmetric = "none"
    reduced: bool = False
    biases: bool = False
    fp8: bool = False

    def is_signed(self, name: str, low: float, high: float) -> bool:
        """Whether the value ``name`` with the range ``[low, high]`` becomes S8 symmetric."""
        if self.signed or name in self.symmetric:
            return True
        if self.others == "none" or affine(low, high).zero == 0:  # which costs nothing
            return False
        return self.others == "all" or 2 * max(-low, high) <= BALANCED * (max(high, 0.0) - low)


class Affine(NamedTuple):
    """``x ≈ (q - zero) · scale``; ``zero`` is of the stored type, uint8, int8 or float8_e4m3fn."""

    scale: np.float32
    zero: Any


def affine(low: float, high: float, *, signed: bool = False, fp8: bool = False) -> Affine:
    """Scale and zero point for a range; it is widened to hold 0, and a width of 0 gets a safe scale."""
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    if not np.isfinite(high - low):
        raise InputError(f"the range [{low}, {high}] cannot be quantized: calibrate on finite activations")
    if fp8:
        width = max(-low, high)
        return Affine(np.float32(width / FP8_LIMIT if width > _LEAST_SCALE else 1.0), ml_dtypes.float8_e4m3fn(0))
    if high - low < _LEAST_SCALE:
        return Affine(np.float32(1.0), np.int8(0) if signed else np.uint8(0))
    if signed:
        return Affine(np.float32(max(-low, high) / 127), np.int8(0))
    scale = np.float32((high - low) / 255)
    return Affine(scale, np.uint8(np.clip(round(-low / float(scale)), 0, 255)))


def write_qdq(model: ir.Model, placement: Placement, ranges: Mapping[str, tuple[float, float]]) -> ir.Model:
    """A new model with the pairs and int8 weights of ``placement``; ``model`` is left as it is.

    Args:
        model: float32, opset 13 or newer.
        placement: where.
        ranges: value name → (low, high); values marked ``same_as`` another are looked up under that name too.

    Raises:
        InputError: a name that the graph does not hold, a value without a range, an opset that is too old.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    opset = model.opset_imports.get("", 0)
    if opset < LEAST_OPSET:
        raise InputError(f"opset {opset} has no scale a channel: export the model with opset {LEAST_OPSET} or newer")
    if placement.fp8 and opset < LEAST_OPSET_FP8:
        raise InputError(f"opset {opset} has no FP8: export the model with opset {LEAST_OPSET_FP8} or newer")
    quantized = model.clone()
    writer = _Writer(quantized.graph, placement, ranges)
    writer.activations()
    writer.layers()
    RemoveUnusedNodesPass()(quantized)
    return quantized


def values_by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    """Inputs and results of the graph (not its constants) under their names."""
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    return {value.name: value for value in values if value.name}


class _Writer:
    """One pass over one graph, which it changes."""

    def __init__(self, graph: ir.Graph, placement: Placement, ranges: Mapping[str, tuple[float, float]]) -> None:
        self._graph = graph
        self._placement = placement
        self._ranges = ranges
        self._values = values_by_name(graph)
        self._ties = dict(placement.ties)
        self._scales: dict[ir.Value, np.float32] = {}  # of each dequantized activation
        self._weights: dict[tuple[str, int], tuple[ir.Value, NDArray[np.float32]]] = {}

    def activations(self) -> None:
        for name in self._placement.activations:
            if name not in self._values:
                raise InputError(f"the graph holds no value {name!r}: place the pairs on this very graph")
            self._pair(self._values[name])

    def layers(self) -> None:
        known = {layer.name: layer for layer in layers(self._graph)}
        for name in self._placement.layers:
            if name not in known:
                raise InputError(f"{name!r} is no layer with a constant weight; allowed are {sorted(known)}")
            self._layer(known[name])

    def _affine(self, value: ir.Value) -> Affine:
        name, seen = value.name or "", dict[str, None]()
        while name not in seen:
            seen[name] = None
            if name in self._ties:
                name = self._ties[name]
            elif name in self._values and name not in self._ranges:
                name = self._values[name].metadata_props.get(SAME_AS, name)
        # A tie may lead to a value that says that it is the same as the first one: then any of them will do.
        known = next((alias for alias in (name, *seen) if alias in self._ranges), None)
        if known is not None:
            low, high = self._ranges[known]
            signed = self._placement.is_signed(value.name or "", low, high)
            return affine(low, high, signed=signed, fp8=self._placement.fp8)
        raise InputError(f"no range is known for {value.name!r}: calibrate the graph that holds this value")

    def _pair(self, value: ir.Value) -> None:
        import onnx_ir as ir

        placement = self._placement
        uses = [use for use in value.uses() if use.node.name not in placement.floats]
        uses = [use for use in uses if (value.name, use.node.name) not in placement.reads]
        if not uses:
            return
        scale, zero = self._affine(value)
        constants = [
            add_initializer(self._graph, f"{value.name}_scale", np.asarray(scale)),
            add_initializer(self._graph, f"{value.name}_zero", np.asarray(zero)),
        ]
        before = ir.node("QuantizeLinear", [value, *constants], name=f"{value.name}_Q")
        after = ir.node("DequantizeLinear", [before.outputs[0], *constants], name=f"{value.name}_DQ")
        before.outputs[0].name, after.outputs[0].name = f"{value.name}_quantized", f"{value.name}_dequantized"
        before.outputs[0].shape, before.outputs[0].type = value.shape, constants[1].type
        after.outputs[0].shape, after.outputs[0].type = value.shape, value.type
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [before, after])
        else:
            self._graph.insert_after(producer, [before, after])
        for user, index in uses:
            user.replace_input_with(index, after.outputs[0])
        self._scales[after.outputs[0]] = scale

    def _layer(self, layer: Layer) -> None:
        scale = self._scales.get(layer.input)
        bias = layer.bias if self._placement.biases and scale is not None else None
        least = None
        if bias is not None and scale is not None:
            least = least_scales(bias.values, float(scale))
        weight, scales = self._weight(layer, least)
        layer.node.replace_input_with(1, weight)
        if bias is not None and scale is not None:
            values, steps = quantize_bias(bias.values, float(scale), scales)
            added = self._dequantized(f"{layer.name}_bias", values, steps, 0)
            bias.node.replace_input_with(bias.slot, added)

    def _weight(self, layer: Layer, least: NDArray[np.float64] | None) -> tuple[ir.Value, NDArray[np.float32]]:
        """Layers that share a float weight share the int8 one, unless a bias asks for larger scales."""
        array = constant(layer.weight)
        assert array is not None  # noqa: S101 - a layer has a constant weight
        if self._placement.fp8:
            values, scales = quantize_weight_fp8(array, layer.axis)
        else:
            values, scales = quantize_weight(array, layer.axis, reduced=self._placement.reduced, least=least)
        name = layer.weight.name or layer.name
        if (name, layer.axis) in self._weights and np.array_equal(self._weights[name, layer.axis][1], scales):
            return self._weights[name, layer.axis]
        taken = f"{name}_quantized" in self._graph.initializers
        unique = f"{name}_{layer.name}" if taken else name
        made = self._dequantized(unique, values, scales, layer.axis), scales
        self._weights.setdefault((name, layer.axis), made)
        return made

    def _dequantized(self, name: str, values: NDArray[Any], scales: NDArray[np.float32], axis: int) -> ir.Value:
        import onnx_ir as ir

        constants = [
            add_initializer(self._graph, f"{name}_quantized", values),
            add_initializer(self._graph, f"{name}_scale", scales),
        ]
        if values.dtype != np.int32:
            constants.append(add_initializer(self._graph, f"{name}_zero", np.zeros(scales.shape, values.dtype)))
        node = ir.node("DequantizeLinear", constants, {"axis": axis}, name=f"{name}_DQ")
        node.outputs[0].name = f"{name}_dequantized"
        node.outputs[0].shape = ir.Shape(values.shape)
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self._graph.insert_before(self._graph[0], [node])
        return node.outputs[0]
