"""FP16 or BF16 written into the graph: every tensor typed, casts where two precisions meet, FP32 at both ends.

TensorRT builds such a graph as strongly typed: it runs each operator in the type of its tensors and decides nothing by
itself. Nodes in ``keep`` stay in FP32 (islands); which ones must is measured (`compress.quantization.float32_islands`).
LayerNormalization computes in FP32 inside either way (``stash_type``).

Q/DQ pairs take part: their scales become FP16 or BF16 too, rounded up, so that nothing clips which did not before.
Where a scale is too small for FP16's normal numbers its INT8 constants are rounded anew to the scale as stored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray

from medfm_compress.export.passes.graph import add_constant, attribute, constant, free_name, remove_unused
from medfm_compress.runtime.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

Half = Literal["fp16", "bf16"]
TYPES: Mapping[str, Any] = MappingProxyType({"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)})
LARGEST: Mapping[str, float] = MappingProxyType({"fp16": 65504.0, "bf16": float.fromhex("0x1.fep127")})
_EPSILON: Mapping[str, float] = MappingProxyType({"fp16": 2.0**-10, "bf16": 2.0**-7})
PAIRS = ("QuantizeLinear", "DequantizeLinear")
FIRST_TYPED_SCALES = 19  # the first opset whose Q/DQ scales may be FP16 or BF16
FLOAT32_INPUTS: Mapping[str, frozenset[int]] = MappingProxyType({"Resize": frozenset({2}), "Upsample": frozenset({1})})
_READS_ANY = frozenset({"Shape", "Size"})
_CONTROL_FLOW = ("If", "Loop", "Scan")
_FLOAT32_OUTPUTS: Mapping[str, int] = MappingProxyType({"LayerNormalization": 1})  # from this output on


class HalfPrecision(msgspec.Struct, frozen=True, kw_only=True):
    """What `to_half` did.

    Attributes:
        precision: of the nodes that are not kept.
        nodes: how many float nodes compute in it.
        kept: names of the nodes that stay in FP32.
        casts: how many Cast nodes were put in.
        clipped: names of constants with finite numbers beyond the type's largest, which became the largest.
        vanished: names of constants with numbers other than 0 that became 0.
    """

    precision: Half
    nodes: int
    kept: tuple[str, ...]
    casts: int
    clipped: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()


def to_half(model: ir.Model, precision: Half, keep: Collection[str] = ()) -> tuple[ir.Model, HalfPrecision]:
    """A new model in ``precision`` whose inputs and outputs stay FP32; ``model`` is left as it is.

    Args:
        model: an FP32 graph, Q/DQ pairs allowed, with known types of its values.
        precision: ``fp16`` or ``bf16``.
        keep: names of nodes that stay in FP32.

    Raises:
        InputError: a name in ``keep`` that no node has, control flow, a value without a type, Q/DQ below opset 19.
    """
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    half = model.clone()
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(half)
    check_convertible(half, keep)
    writer = _Writer(half.graph, precision, keep)
    writer.write()
    remove_unused(half)
    return half, writer.record()


def float_nodes(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that compute on floats, in graph order: all but Q/DQ pairs, casts between integers and shapes."""
    return [node for node in graph if _is_float_node(node) and node.op_type not in PAIRS]


def round_to(array: NDArray[Any], precision: Half) -> NDArray[Any]:
    """``array`` in ``precision``, finite numbers beyond its largest brought back to it; infinities stay."""
    kind = TYPES[precision]
    largest = LARGEST[precision]
    bounded = np.where(np.isfinite(array), np.clip(array, -largest, largest), array)
    rounded: NDArray[Any] = np.asarray(bounded, np.float32).astype(kind)
    return rounded


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype is not None and value.dtype.name == "FLOAT"


def _is_float_node(node: ir.Node) -> bool:
    if node.op_type in _READS_ANY or node.op_type == "Constant":
        return False
    return any(map(_is_float, node.outputs)) or (node.op_type != "Cast" and any(map(_is_float, node.inputs)))


def check_convertible(model: ir.Model, keep: Collection[str] = ()) -> None:
    """Raises InputError for what `to_half` cannot write."""
    nodes = list(model.graph)
    unknown = set(keep) - {node.name for node in nodes}
    if unknown:
        raise InputError(f"no node is called {sorted(unknown)[0]!r}; give names of nodes of this very graph to keep")
    for node in nodes:
        if node.op_type in _CONTROL_FLOW:
            raise InputError(f"{node.op_type} {node.name!r} has graphs inside; export the model without control flow")
        untyped = [value for value in node.outputs if value.name and value.dtype is None]
        if untyped:
            raise InputError(f"the type of {untyped[0].name!r} ({node.op_type}) is unknown; run shape inference before")
    pairs = any(node.op_type in PAIRS for node in nodes)
    opset = model.opset_imports.get("", 0)
    if pairs and opset < FIRST_TYPED_SCALES:
        raise InputError(
            f"Q/DQ of opset {opset} have FP32 scales only; export with opset {FIRST_TYPED_SCALES} or newer"
        )


class _Writer:
    """One pass over one graph, which it changes."""

    def __init__(self, graph: ir.Graph, precision: Half, keep: Collection[str]) -> None:
        import onnx_ir as ir

        self._graph, self._precision, self._keep = graph, precision, frozenset(keep)
        self._half = ir.DataType.from_numpy(TYPES[precision])
        self._names = {value.name for node in graph for value in node.outputs} | set(graph.initializers)
        self._cast: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
        self._nodes: int = 0
        self._clipped: dict[str, None] = {}
        self._vanished: dict[str, None] = {}

    def record(self) -> HalfPrecision:
        kept = tuple(node.name or "" for node in self._graph if node.name in self._keep)
        casts = sum(value.producer() is not None for value in self._cast.values())
        return HalfPrecision(
            precision=self._precision, nodes=self._nodes, kept=kept, casts=casts,
            clipped=tuple(self._clipped), vanished=tuple(self._vanished),
        )  # fmt: skip

    def write(self) -> None:
        import onnx_ir as ir

        nodes = list(self._graph)
        outputs = [value for value in self._graph.outputs if _is_float(value)]
        halves = {node for node in nodes if _is_float_node(node) and self._becomes_half(node)}
        for node in nodes:
            if node in halves:
                self._nodes += node.op_type not in PAIRS
                self._retype(node)
        for node in nodes:
            self._connect(node, self._half if node in halves else ir.DataType.FLOAT)
        for value in outputs:
            self._end_in_float32(value)

    def _becomes_half(self, node: ir.Node) -> bool:
        """Not what is kept; of a Q/DQ pair both or none, as soon as one reader is in half precision."""
        if node.op_type == "QuantizeLinear":
            return any(self._becomes_half(reader) for reader in node.outputs[0].consumers())
        if node.op_type == "DequantizeLinear":
            readers = node.outputs[0].consumers()
            return any(_is_float_node(reader) and self._becomes_half(reader) for reader in readers) or not readers
        return node.name not in self._keep

    def _retype(self, node: ir.Node) -> None:
        import onnx_ir as ir

        last = _FLOAT32_OUTPUTS.get(node.op_type, len(node.outputs))
        for value in node.outputs[:last]:
            if _is_float(value):
                value.type = ir.TensorType(self._half)  # types are shared between clones
        for name in ("to", "dtype", "output_dtype"):  # of Cast, of what makes numbers, of DequantizeLinear
            if attribute(node, name, None) == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64(name, int(self._half))
        value = node.attributes.get("value")
        if node.op_type == "ConstantOfShape" and (value is None or value.as_tensor().dtype == ir.DataType.FLOAT):
            filled = np.zeros(1, np.float32) if value is None else value.as_tensor().numpy()
            node.attributes["value"] = ir.AttrTensor("value", ir.tensor(round_to(filled, self._precision)))

    def _connect(self, node: ir.Node, kind: ir.DataType) -> None:
        """Every float input in the type of the node."""
        import onnx_ir as ir

        if node.op_type in PAIRS:
            self._connect_pair(node, kind)
            return
        if node.op_type in ("Cast", *_READS_ANY):  # they take any type
            return
        for slot, value in enumerate(node.inputs):
            if value is None or value.dtype not in (ir.DataType.FLOAT, self._half):
                continue
            float32 = slot in FLOAT32_INPUTS.get(node.op_type, ())
            node.replace_input_with(slot, self._as(value, ir.DataType.FLOAT if float32 else kind))

    def _as(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """``value`` in the type ``kind``, through one Cast that all share; constants are converted here."""
        if value.dtype == kind:
            return value
        if (value, kind) not in self._cast:
            array = None if value.is_graph_input() else constant(value)
            self._cast[value, kind] = self._stored(value, array) if array is not None else self._through(value, kind)
        return self._cast[value, kind]

    def _stored(self, value: ir.Value, array: NDArray[Any]) -> ir.Value:
        name, rounded = value.name or "constant", round_to(array, self._precision)
        largest = LARGEST[self._precision]
        if (np.isfinite(array) & (np.abs(array) > largest)).any():
            self._clipped[name] = None
        if ((array != 0) & (rounded == 0)).any():
            self._vanished[name] = None
        return add_constant(self._graph, f"{name}_{self._precision}", rounded)

    def _through(self, value: ir.Value, kind: ir.DataType, name: str = "") -> ir.Value:
        import onnx_ir as ir

        name = name or free_name(f"{value.name}_as_{kind.name.lower()}", self._names)
        self._names.add(name)
        cast = ir.node("Cast", [value], {"to": int(kind)}, name=f"{name}_Cast")
        cast.outputs[0].name, cast.outputs[0].shape, cast.outputs[0].type = name, value.shape, ir.TensorType(kind)
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], [cast])
        else:
            cast.metadata_props.update(producer.metadata_props)
            self._graph.insert_after(producer, [cast])
        return cast.outputs[0]

    def _end_in_float32(self, value: ir.Value) -> None:
        """The graph goes on giving FP32 under the same name."""
        import onnx_ir as ir

        if value.dtype == ir.DataType.FLOAT:
            return
        name = value.name or "output"
        value.name = free_name(f"{name}_{self._precision}", self._names)
        self._cast[value, ir.DataType.FLOAT] = self._through(value, ir.DataType.FLOAT, name)
        for number, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[number] = self._cast[value, ir.DataType.FLOAT]

    def _connect_pair(self, node: ir.Node, kind: ir.DataType) -> None:
        """Numbers of a QuantizeLinear and scales of both in the node's type."""
        import onnx_ir as ir

        entering, scale = node.inputs[0], node.inputs[1]
        if entering is None or scale is None:
            raise InputError(f"{node.op_type} {node.name!r} has no scale")
        if node.op_type == "QuantizeLinear":
            node.replace_input_with(0, self._as(entering, kind))
        if kind == ir.DataType.FLOAT:
            return
        exact = constant(scale)
        if exact is None:
            raise InputError(f"the scale of {node.op_type} {node.name!r} is computed; only constant scales have a type")
        stored = _rounded_up(exact, self._precision)
        if (scale, kind) not in self._cast:
            self._cast[scale, kind] = add_constant(self._graph, f"{scale.name}_{self._precision}", stored)
        node.replace_input_with(1, self._cast[scale, kind])
        integers = constant(entering) if node.op_type == "DequantizeLinear" else None
        ratio = exact.astype(np.float64) / stored.astype(np.float64)
        if integers is not None and (1 - ratio).max(initial=0) > 2 * _EPSILON[self._precision]:
            axis = attribute(node, "axis", 1)
            node.replace_input_with(0, self._rescaled(entering, integers, ratio, axis))

    def _rescaled(self, value: ir.Value, integers: NDArray[Any], ratio: NDArray[Any], axis: int) -> ir.Value:
        shape = [-1 if number == axis % integers.ndim else 1 for number in range(integers.ndim)] if ratio.ndim else []
        numbers = integers.astype(np.float64) * ratio.reshape(shape)
        whole = np.issubdtype(integers.dtype, np.integer)
        rounded = (np.rint(numbers) if whole else numbers.astype(np.float32)).astype(integers.dtype)
        return add_constant(self._graph, f"{value.name}_{self._precision}", rounded)


def _rounded_up(scale: NDArray[Any], precision: Half) -> NDArray[Any]:
    """The smallest number of the type that is no less; positive stays positive."""
    nearest = round_to(scale, precision)
    bits = nearest.view(np.uint16)
    return np.where(nearest.astype(np.float64) < scale, bits + np.uint16(1), bits).astype(np.uint16).view(nearest.dtype)
